"""The recipe up to the stage `clean`: what is done already is not done again."""

from ram_ray.cli.job import main

if __name__ == "__main__":
    main("clean", description=__doc__)
