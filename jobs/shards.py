"""Check shards: decode every image, find duplicates, and write rows that cannot be used to rejected/STAGE."""

from ram_ray.cli.run import run_stage

if __name__ == "__main__":
    run_stage("shards", fixed_sets=["data.check=decode"], description=__doc__)
