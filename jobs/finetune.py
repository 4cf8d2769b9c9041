"""The recipe up to the stage `finetune`: what is done already is not done again."""

from ram_ray.cli.job import main

if __name__ == "__main__":
    main("finetune", description=__doc__)
