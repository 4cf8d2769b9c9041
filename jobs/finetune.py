"""The recipe up to the stage `finetune`: what is done already is not done again."""

from ram_ray.cli.run import run_stage

if __name__ == "__main__":
    run_stage("finetune", description=__doc__)
