"""Run the recipe up to the stage `labels`; finished stages are reused."""

from ram_ray.cli.run import run_stage

if __name__ == "__main__":
    run_stage("labels", description=__doc__)
