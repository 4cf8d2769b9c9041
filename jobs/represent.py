"""The recipe up to the stage `represent`: what is done already is not done again."""

from ram_ray.cli.job import main

if __name__ == "__main__":
    main("represent", description=__doc__)
