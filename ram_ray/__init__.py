"""ram_ray: captions in, an open-vocabulary image tagger out, on one Ray cluster.

The recipe is the one of "Recognize Anything: A Strong Image Tagging Model" (arXiv 2306.03514).
`ram_ray.pipeline` reads as the paper does; each stage lives in the folder named after it.
"""

import logging

logging.getLogger(__name__).addHandler(logging.NullHandler())  # whoever imports the package decides what is logged

__version__ = "0.1.0"
