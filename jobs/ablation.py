"""The paper's ablations over seeds: table 5 (the data engine, step by step) or table 4 (the model's parts).

python jobs/ablation.py --preset demo --seeds 3 --out runs/ablation
python jobs/ablation.py --preset photos --data 'photos/train-*.tar' --eval photos/dev.tar --seeds 3 --out runs/photos \
    --set data.measure.captions_per_image=1
"""

from ram_ray.cli import job


def main() -> None:
    """Parse the command line and run."""
    parser = job.parser(__doc__.splitlines()[0], run=False)
    parser.add_argument(
        "--out", required=True, metavar="URI", help="folder for ablation.json (ablation_4.json), and a run a seed"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="so many, from the configuration's on")
    parser.add_argument("--table", type=int, choices=(4, 5), default=5)
    raise SystemExit(job.ablate(parser.parse_args()))


if __name__ == "__main__":
    main()
