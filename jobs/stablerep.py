"""Compare SimCLR, CLIP, StableRep and StableRep+ on the same captions, each by a linear probe and k-NN, over seeds.

python jobs/stablerep.py --preset demo --seeds 3 --out runs/stablerep --set represent.num_captions=5500
"""

from ram_ray.cli.command import run_job
from ram_ray.cli.run import stablerep

if __name__ == "__main__":
    raise SystemExit(run_job(stablerep))
