"""The recipe up to the stage `generate`: what is done already is not done again."""

from ram_ray.cli.job import main

if __name__ == "__main__":
    main("generate", description=__doc__)
