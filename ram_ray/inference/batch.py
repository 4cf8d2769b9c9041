"""Tag many images in batch: folders of images, or shards, to Parquet and JSONL, on Ray Data.

    list (tasks) -> leave what is new -> read and decode (tasks, CPU) -> Predictor (actor pool) -> write parts (tasks)

Images need no captions here. Every image gives one row, in any order; an image that cannot be read gives a row with
`error` set; a file that is no image gives none and is counted. The task that has a block writes it under a name made
from the hash of its keys, so a task that Ray runs again overwrites the same file, and no tags pass through the driver.

The same call goes on where an earlier one ended or was killed, and tags what is new or changed: `tagged_parts` says
how. Ray Data's checkpoint, which the stages of a run use, does not fit: it knows keys that were written and nothing of
files that change, its record can disagree with output that people move and delete, and it writes no JSONL.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ram_ray.config import RunConfig
from ram_ray.data import tagged_parts
from ram_ray.data.tagged_parts import Groups
from ram_ray.inference.batch_query import FindBoxes, Query, RowSink, TagCounts
from ram_ray.inference.batch_steps import Decoder, TagActor, Writer
from ram_ray.inference.listing import Lister, count_groups, find_work, leave_fresh
from ram_ray.models.bundle_config import BUNDLE_FILES, read_config
from ram_ray.records import Json
from ram_ray.runtime.actors import model_actors
from ram_ray.runtime.artifacts import write_text
from ram_ray.runtime.content import content_digest

if TYPE_CHECKING:
    from ram_ray.inference.predictor import Predictor

logger = logging.getLogger(__name__)

BLOCKS_PER_ACTOR = 4  # at least, so that all actors finish at about the same time
COUNTS = "counts.json"


def tag_to_folder(
    model: str,
    data: list[str],
    out: str,
    *,
    query: Query,
    config: RunConfig,
    backend: str = "torch",
    precision: str | None = None,
    box_finder: Callable[[Predictor], FindBoxes] | None = None,
    sink: RowSink | None = None,
) -> TagCounts:
    """Tag all images of `data` into `out/part-*.parquet` and `out/part-*.jsonl`, those that `out` does not have yet.

    Args:
        model: a bundle's folder, URI or Hugging Face id, readable from every node.
        data: folders of images, images, shards, globs or brace patterns of them; paths or URIs.
        out: folder or URI; may hold what an earlier call with the same model and query wrote.
        query: what to write of each image.
        config: of resources and data.
        backend: as in `Predictor.from_pretrained`.
        precision: as in `Predictor.from_pretrained`; None: bf16 on a GPU, else fp32.
        box_finder: makes what finds boxes; needed if the query asks for them.
        sink: also gets the rows, before their part is written.

    Returns:
        The counts, which are also in `out/counts.json`.

    Raises:
        ValueError: if there are no images, `out` was written with another model or query, or the cluster is too small
            for the resources asked.
    """
    import ray
    import ray.data

    resources, cpus = config.resources, config.resources.task_cpus
    size = read_config(model).image_size  # only the actors load the weights
    work = find_work(data, shard_folders=config.data.shard_folders, layout=config.data.layout, out=out)
    if work.unread:
        logger.warning("not read: %s", work.unread)
    tagged_parts.prepare_output(out, query.identity(content_digest(model, files=BUNDLE_FILES)))
    if sink:
        work.remove_unfinished()
    done = tagged_parts.read_done(out)
    items = ray.data.from_items(
        [{"work": json.dumps(item)} for item in work.items], override_num_blocks=len(work.items)
    )
    listed = items.flat_map(Lister(config.data), num_cpus=cpus).materialize()  # small: locations and no pixels
    listed_groups = _sum_groups(listed.map_batches(count_groups, **_whole_blocks(cpus)))
    if not listed_groups:
        raise ValueError(f"no images in {', '.join(data)}")
    known = ray.put(done)

    def leave(block: pa.Table) -> pa.Table:
        return leave_fresh(block, ray.get(known))

    fresh = listed.map_batches(leave, **_whole_blocks(cpus)).materialize()
    num_fresh = fresh.count()
    written: list[Json] = []
    if num_fresh:
        stale = fresh.map_batches(_stale_ids, **_whole_blocks(cpus)).iter_rows()
        tagged_parts.drop_rows(out, done, np.array([row["id"] for row in stale], np.uint64))
        actor = (model, query, resources, backend, precision, box_finder)
        written = _tag(fresh, num_fresh, out, actor=actor, sink=sink, size=size, config=config)
    return _count(out, listed_groups, work.other_files, written)


def _tag(
    fresh: Any, num_rows: int, out: str, *, actor: tuple, sink: RowSink | None, size: int, config: RunConfig
) -> list[Json]:
    """Tag rows of LISTED and write them; what each part tells."""
    from ram_ray.runtime.progress import progress

    cpus, resources = config.resources.task_cpus, config.resources
    rows_per_block = min(config.data.rows_per_block, -(-num_rows // (BLOCKS_PER_ACTOR * resources.most_actors)))
    rows = fresh.repartition(target_num_rows_per_block=rows_per_block).materialize()  # by tasks that take a whole CPU
    with progress("tag", total=num_rows) as add:
        tagged = rows.map_batches(Decoder(config.data, size=size), batch_size=None, num_cpus=cpus).map_batches(
            TagActor,
            fn_constructor_args=actor,
            fn_constructor_kwargs={"add": add},
            batch_size=config.evaluate.batch_size,
            **model_actors(resources),
        )
        parts = tagged.map_batches(Writer(out, extras=actor[1].extras, sink=sink), **_whole_blocks(cpus))
        written = [json.loads(row["part"]) for row in parts.iter_rows()]  # one small row a part
    num_written = sum(part["rows"] + part["num_not_images"] for part in written)
    assert num_written == num_rows, f"{num_rows} images went in but {num_written} came out"
    return written


def _count(out: str, listed: Groups, other_files: Groups, written: list[Json]) -> TagCounts:
    """Compare what was listed with what the output holds, folder by folder, and write the counts."""
    rows, errors = tagged_parts.count_rows(out)
    no_images: Groups = Counter()
    sinks: Counter[str] = Counter()
    for part in written:
        no_images.update({(folder, extension): count for folder, extension, count in part["not_images"]})
        sinks.update(part["written"])
    tagged = sum(part["rows"] for part in written)
    folders = []
    for group in sorted({*listed, *other_files, *rows}):
        unlisted = rows[group] - listed[group] + no_images[group]
        assert unlisted >= 0, f"{group}: {listed[group]} images, {rows[group]} rows, {no_images[group]} no images"
        folders.append(
            {
                "folder": group[0],
                "extension": group[1],
                "files": listed[group] + other_files[group],
                "rows": rows[group],
                "errors": errors[group],
                "not_images": no_images[group] + other_files[group],
                "unlisted": unlisted,
            }
        )
    counts = TagCounts(
        listed=listed.total(),
        tagged=tagged,
        rows=rows.total(),
        errors=errors.total(),
        unlisted=sum(folder["unlisted"] for folder in folders),
        not_images=sum(folder["not_images"] for folder in folders),
        examples=[name for part in written for name in part["examples"]][:5],
        written=dict(sinks),
        folders=folders,
    )
    write_text(f"{out.rstrip('/')}/{COUNTS}", counts.model_dump_json(indent=1))
    return counts


def _whole_blocks(cpus: float) -> dict[str, Any]:
    return {"batch_size": None, "batch_format": "pyarrow", "num_cpus": cpus}


def _stale_ids(block: pa.Table) -> pa.Table:
    stale = block.filter(block["stale"])
    return pa.table({"id": pa.array(tagged_parts.image_ids(stale), pa.uint64())})


def _sum_groups(blocks: Any) -> Groups:
    groups: Groups = Counter()
    for row in blocks.iter_rows():
        groups[row["folder"], row["extension"]] += row["count"]
    return groups
