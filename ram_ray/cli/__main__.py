"""`python -m ram_ray.cli`: the command `ram-ray` where its script is not installed."""

import sys

from ram_ray.cli.main import main

sys.exit(main())
