"""What adding labels to a trained bundle costs the labels that it has, and what the new ones gain.

    python tests/bench/added_labels.py --preset photos --data 'photos-train-*.tar' --eval photos-dev.tar \
        --out runs/added [--labels 100] [--every 5] [--kept-weight 1 4] [--set section.field=value ...]

Takes the most frequent labels of the data, holds every fifth back, and trains three models: with all labels, with the
rest, and the latter finetuned as `jobs/finetune.py --model ... --add-labels` does, once for each weight of the labels
that stay. Prints the mAP of the new and of the old labels of each, over the labels with `evaluate.min_positives`
images. Run again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from ram_ray.ablation.trained import train_rows
from ram_ray.cli.given_bundle import finetune_sets
from ram_ray.cli.job import configure
from ram_ray.evaluation.stages import read_summary
from ram_ray.evaluation_results import Evaluation
from ram_ray.label_system import Label, LabelSystem
from ram_ray.pipeline import find_data, prepare, run_recipe
from ram_ray.reporting.run_log import RunLog
from ram_ray.runtime import cluster
from ram_ray.runtime.artifacts import StageResult
from ram_ray.runtime.progress import worker_lines

WITHOUT_CAPTIONS = ["model.captions=false", "engine.generate.captions=0", "engine.rounds=0"] + [
    f"{section}.caption_loss=false" for section in ("pretrain", "retrain", "finetune")
]
Name = tuple[str, str]  # kind and name of a label


class KeepsScores(RunLog):
    """Keeps the score of the finetuned model."""

    score: Evaluation | None = None

    def on_result(self, result: StageResult, is_reused: bool) -> None:
        """See `RunLog.on_result`."""
        if isinstance(result, Evaluation) and result.stage == "evaluate_finetune":
            self.score = result
        super().on_result(result, is_reused)


def write_labels(path: Path, labels: list[Label]) -> str:
    """Write a list of labels as `labels.system` and `labels.add` read it.

    Args:
        path: of the file.
        labels: in the order of their ids.

    Returns:
        The path.
    """
    path.write_text("".join(f"{label.kind}:{';'.join([label.name, *label.synonyms])}\n" for label in labels))
    return str(path)


def scores_by_name(score: Evaluation) -> dict[Name, float]:
    """Average precision of each label that is counted.

    Args:
        score: of a model.

    Returns:
        By kind and name.
    """
    return {(line["kind"], line["tag"]): line["ap"] for line in read_summary(score)["per_tag"] if line["counted"]}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="photos")
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--eval", nargs="+", required=True)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--every", type=int, default=5, help="every such label is held back")
    parser.add_argument("--kept-weight", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    run_uri = str(options.out.resolve() / "run")

    def configured(*sets: str):  # noqa: ANN202 (a RunConfig)
        given = [*WITHOUT_CAPTIONS, *sets, *options.set]
        return configure(options.preset, sets=given, train=options.data, held_out=options.eval)

    config = configured()
    cluster.start(num_cpus=config.resources.num_cpus, object_store_gb=config.resources.object_store_gb)
    with worker_lines():
        _, inputs = prepare(RunLog().open(run_uri), config, *find_data(RunLog().open(run_uri), config))
        labels = LabelSystem.load(inputs.labels.uri).labels[: options.labels]
        new = labels[options.every - 1 :: options.every]
        old = [label for label in labels if label not in new]
        files = {
            name: write_labels(options.out / f"{name}.txt", chosen)
            for name, chosen in (("all", labels), ("old", old), ("new", new))
        }
        variants = {name: configured(f"labels.system={files[name]}") for name in ("all", "old")}
        trained = {row.name: row for row in train_rows(variants, run_uri)}
        scores = {name: scores_by_name(row.score) for name, row in trained.items()}
        for weight in options.kept_weight:
            sets = finetune_sets(trained["old"].model.path, add_labels=files["new"])
            added = configured(*sets, f"finetune.kept_weight={weight}")
            log = KeepsScores()
            run_recipe(log.open(run_uri, last="finetune"), added, log)
            assert log.score is not None
            scores[f"old, + new with kept_weight {weight:g}"] = scores_by_name(log.score)
    counted = scores["all"].keys()
    for name, by_label in scores.items():
        parts = {
            part: [by_label[key] for label in chosen if (key := (label.kind, label.name)) in counted & by_label.keys()]
            for part, chosen in (("new", new), ("old", old))
        }
        means = {part: round(float(np.mean(values)), 4) if values else None for part, values in parts.items()}
        print(json.dumps({"model": name, **means, "labels": {part: len(values) for part, values in parts.items()}}))


if __name__ == "__main__":
    main()
