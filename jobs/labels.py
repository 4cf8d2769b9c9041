"""The recipe up to the stage `labels`: what is done already is not done again."""

from ram_ray.cli.run import run_stage

if __name__ == "__main__":
    run_stage("labels", description=__doc__)
