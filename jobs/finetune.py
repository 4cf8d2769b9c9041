"""Run the recipe up to the stage `finetune`; finished stages are reused. With --model, finetune a given bundle.

python jobs/finetune.py --model bundles/ram --data 'mine/*.tar' --add-labels labels.txt
"""

from ram_ray.cli.command import run_job
from ram_ray.cli.run import finetune

if __name__ == "__main__":
    raise SystemExit(run_job(finetune))
