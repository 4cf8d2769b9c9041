"""Check shards: every picture is decoded, every row that cannot be used goes to rejected/shards with its reason."""

from ram_ray.cli.run import run_stage

if __name__ == "__main__":
    run_stage("shards", fixed_sets=["data.check=decode"], description=__doc__)
