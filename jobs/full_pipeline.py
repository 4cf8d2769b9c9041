"""Run the whole recipe: shards in, an evaluated tagger out, served over HTTP if asked.

python jobs/full_pipeline.py --preset demo --try      # drawn scenes, no GPU, minutes
python jobs/full_pipeline.py --preset ram_14m --data 's3://bucket/shards/*.tar' --run s3://bucket/runs/mine
"""

from ram_ray.cli.command import run_job
from ram_ray.cli.run import full_pipeline

if __name__ == "__main__":
    raise SystemExit(run_job(full_pipeline))
