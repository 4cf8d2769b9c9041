"""The recipe up to the stage `evaluate`: what is done already is not done again."""

from ram_ray.cli.run import run_stage

if __name__ == "__main__":
    run_stage("evaluate", description=__doc__)
