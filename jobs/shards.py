"""Check shards: decode every image, and write unusable rows with their reason to rejected/shards."""

from ram_ray.cli.run import run_stage

if __name__ == "__main__":
    run_stage("shards", fixed_sets=["data.check=decode"], description=__doc__)
