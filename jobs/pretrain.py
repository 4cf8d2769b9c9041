"""The recipe up to the stage `pretrain`: what is done already is not done again."""

from ram_ray.cli.job import main

if __name__ == "__main__":
    main("pretrain", description=__doc__)
