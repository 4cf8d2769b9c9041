"""Run an ablation over seeds: table 5 (the data engine, step by step), table 4 (the model's parts), or heads.

python jobs/ablation.py --preset demo --seeds 3 --out runs/ablation
python jobs/ablation.py --preset photos --data 'photos/train-*.tar' --eval photos/dev.tar --seeds 3 --out runs/photos \
    --set data.measure.captions_per_image=1
python jobs/ablation.py --preset demo --table heads --seeds 3 --out runs/heads
"""

from ram_ray.cli.command import run_job
from ram_ray.cli.run import ablation

if __name__ == "__main__":
    raise SystemExit(run_job(ablation))
