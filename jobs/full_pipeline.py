"""The whole recipe: shards in, an evaluated tagger out, deployed behind HTTP if asked.

python jobs/full_pipeline.py --preset demo --try      # drawn scenes, no GPU, minutes
python jobs/full_pipeline.py --preset ram_14m --data 's3://bucket/shards/*.tar' --run s3://bucket/runs/mine
"""

from ram_ray.cli import job


def main() -> None:
    """Parse the command line and run."""
    parser = job.parser(__doc__.splitlines()[0])
    parser.add_argument("--serve", action="store_true", help="deploy the model and stay until interrupted")
    parser.add_argument(
        "--try",
        type=int,
        nargs="?",
        const=3,
        default=0,
        metavar="N",
        dest="try_out",
        help="deploy, tag N held-out pictures (3 if not said) over HTTP, take down",
    )
    raise SystemExit(job.execute(parser.parse_args(), last="evaluate"))


if __name__ == "__main__":
    main()
