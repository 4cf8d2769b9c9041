"""Check shards: every picture is decoded, every row that cannot be used goes to rejected/shards with its reason."""

from ram_ray.cli.job import main

if __name__ == "__main__":
    main("shards", sets=["data.check=decode"], description=__doc__)
