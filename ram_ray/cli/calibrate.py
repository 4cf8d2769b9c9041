"""`ram-ray evaluate --calibrate`: thresholds of a bundle's labels by labelled images."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from ram_ray.cli.options import absolute

logger = logging.getLogger(__name__)


def calibrate_bundle(
    model: str, data: Sequence[str], *, goal: str, files: Sequence[str] = (), sets: Sequence[str] = ()
) -> int:
    """Join or start Ray, calibrate the thresholds of a bundle, and say what changed.

    Args:
        model: folder or URI of the bundle, which is changed.
        data: paths, URIs or globs of labelled images.
        goal: as the option has it.
        files: YAML files of settings.
        sets: `section.field=value` pairs.

    Returns:
        The exit code.

    Raises:
        ValueError: if the goal, the bundle or the data is wrong.
    """
    from ram_ray.config import load
    from ram_ray.data.shards import list_shards
    from ram_ray.evaluation.calibrate import Goal, calibrate
    from ram_ray.models.bundle_config import read_config
    from ram_ray.runtime import cluster, outcome

    asked = Goal.parse(goal)
    if "://" not in model and not os.path.isdir(model):
        raise ValueError(f"--model {model}: thresholds are written into the bundle, so it has to be a folder or a URI")
    bundle, uris = absolute(model), [absolute(uri) for uri in data]
    read_config(bundle)
    config = load(files=files, sets=sets)
    list_shards(uris, folders=config.data.shard_folders, images=config.data.images)
    if not cluster.joins_cluster():
        cpus = min(cluster.machine_cpus(), config.resources.num_cpus or cluster.machine_cpus())
        resources = cluster.resources_for_machine(config.resources, cpus=cpus)
        config = config.model_copy(update={"resources": resources})

    def work() -> None:
        resources = config.resources
        cluster.start(num_cpus=resources.num_cpus, object_store_gb=resources.object_store_gb, dashboard=False)
        record = calibrate(bundle, uris, goal=asked, config=config)
        logger.info(
            "%d of %d labels of %s calibrated for %s on %d images; %d had too few positives, %d cannot reach it",
            record["calibrated"],
            record["labels"],
            model,
            asked,
            record["images"],
            record["few_positives"] + record["no_positives"],
            len(record["unreached"]),
        )
        for when in ("before", "after"):
            values = record[when]
            logger.info("%s: precision %.3f, recall %.3f on these images", when, values["precision"], values["recall"])

    return outcome.run(work, name="calibrate", folder=None)
