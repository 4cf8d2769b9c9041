"""The stage `images`: one row an image, without duplicates, copies of held-out images, and filtered captions.

    shards -> fingerprints -> duplicates -> images

Rows stay in their shards. A row that goes to another row of its image keeps its place with the reason `merged`, its
captions are with the other row; a row that is left out has the reason `duplicate_image` and the key of what it is a
duplicate of. Where nothing changes, the rows of `shards` are the result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import quote

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from ram_ray.config import RunConfig
from ram_ray.curation.duplicates import TRAIN, find_duplicates, set_name
from ram_ray.curation.filters import find_reason
from ram_ray.curation.fingerprints import make_fingerprints
from ram_ray.curation.image_scores import score_images
from ram_ray.data.hidden_captions import hide_captions
from ram_ray.records import SAMPLE, Row, to_table
from ram_ray.results import Duplicates, Fingerprints, Images, Samples
from ram_ray.runtime.annotate import annotate, caption_rows_per_block, write_rejected
from ram_ray.runtime.artifacts import Run
from ram_ray.runtime.rows import Counted
from ram_ray.settings.curation import FiltersConfig
from ram_ray.settings.section import Section, StageSettings

MERGED = "merged"
GONE = ("merged", "left_out", "placeholder")  # actions on rows that do not stay
# Fields of `data.filters` that the steps before this stage apply.
OF_IMAGES = (
    *("max_aspect", "min_sharpness", "min_brightness", "min_similarity", "similarity_quantile", "opt_out"),
    *("unsafe_model", "unsafe_revision", "unsafe_labels", "max_unsafe"),
)
FILTERED = "filtered_captions/"  # the name of a count of filtered captions begins with it and ends with the reason


class HiddenCaptions(Section):
    """The captions that stay in `captions` where the run measures its data engine; the others are hidden."""

    captions_per_image: int
    seed: int


class ImageSettings(StageSettings):
    """All that the rows depend on, beside fingerprints and duplicates."""

    set_index: int  # 0 for training, from 1 on for held-out sets
    filters: FiltersConfig
    hidden: HiddenCaptions | None = None

    @classmethod
    def from_config(cls, config: RunConfig, *, set_index: int) -> ImageSettings:
        """Take the settings out of the configuration of the run.

        Args:
            config: of the run.
            set_index: 0 for training, from 1 on for held-out sets, which are not filtered.

        Returns:
            The settings.
        """
        data, num_shown = config.data, config.data.measure.captions_per_image
        hides = num_shown is not None and not set_index
        filters = FiltersConfig() if set_index else data.filters
        return cls(
            set_index=set_index,
            filters=filters.model_copy(update={name: FiltersConfig.model_fields[name].default for name in OF_IMAGES}),
            hidden=HiddenCaptions(captions_per_image=num_shown, seed=config.seed) if hides else None,
        )

    @property
    def changes_rows(self) -> bool:
        """Whether rows change without duplicates."""
        return self.hidden is not None or self.filters.of_captions


def curate(run: Run, config: RunConfig, samples: Samples, held_out: Sequence[Samples] = ()) -> list[Samples]:
    """Run the stage `images` for the training data and each held-out set.

    Args:
        run: the run; the stage's folders are created in it.
        config: of the run.
        samples: SAMPLE rows to train on.
        held_out: SAMPLE rows of each held-out set.

    Returns:
        SAMPLE rows of the training data, then of each held-out set: one row an image.

    Raises:
        ValueError: if no training row is left.
    """
    sets = [samples, *held_out]
    data = config.data
    if not data.duplicates.is_enabled:
        filtered = make_fingerprints(run, config, samples) if data.filters.of_images else None
        filtered = score_images(run, config, filtered) if filtered else None
        return [unite_images(run, config, samples, filtered), *held_out]
    prints = [make_fingerprints(run, config, part, name=_name("fingerprints", part)) for part in sets]
    prints = [score_images(run, config, part) for part in prints]
    duplicates = find_duplicates(run, config, prints[0], prints[1:])
    results = [
        unite_images(run, config, part, fingerprints, duplicates, set_index=set_index)
        for set_index, (part, fingerprints) in enumerate(zip(sets, prints, strict=True))
    ]
    if note := describe(duplicates, prints[0]):
        run.note(note)
    return results


def unite_images(
    run: Run,
    config: RunConfig,
    samples: Samples,
    fingerprints: Fingerprints | None = None,
    duplicates: Duplicates | None = None,
    *,
    set_index: int = 0,
) -> Samples:
    """Write the rows of one set.

    Args:
        run: the run; the stage's folder is created in it.
        config: of the run.
        samples: SAMPLE rows.
        fingerprints: of the samples; None: images are neither compared nor filtered.
        duplicates: of all sets; None: images are not compared.
        set_index: of this set.

    Returns:
        SAMPLE rows: `samples` themselves where nothing changes.

    Raises:
        ValueError: if no row is left.
    """
    settings, execution = ImageSettings.from_config(config, set_index=set_index), config.execution
    gone = duplicates.count(set_name(fingerprints), *GONE) if duplicates and fingerprints else 0
    source = fingerprints or samples
    if not gone and not settings.changes_rows and source.rows_out == samples.rows_out:
        return samples
    name = _name("images", samples)
    inputs = [source] if duplicates is None else [source, duplicates]
    stage = run.stage(name, Images, settings=settings, inputs=inputs)
    if stage.result:
        return stage.result
    folder = f"{duplicates.path}/set={set_index}" if duplicates and gone else None

    def unite(block: pa.Table) -> pa.Table:
        return unite_rows(block, folder, settings)

    counts = annotate(
        stage,
        lambda dataset: dataset.map_batches(
            unite, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus
        ),
        source=source.path,
        schema=SAMPLE,
        execution=execution,
        rows_in=source.rows_out,
        count=Counted(_count, ("reason", "filtered_captions")),
        rows_per_block=caption_rows_per_block(source.rows_out, execution=execution),
    )
    rows, merged, rejected = (int(counts.get(name, 0)) for name in ("rows", MERGED, "rejected"))
    assert rows == source.rows_out, f"{name}: {source.rows_out} rows in, {rows} out"
    write_rejected(stage, execution=execution, num_rejected=rejected + merged)
    if rows == rejected + merged:
        raise ValueError(_nothing_left(duplicates, rows, folder=run.path("rejected", name)))
    return stage.finish(
        shards=samples.shards,
        rows_in=rows,
        rows_out=rows - rejected - merged,
        rejected=rejected,
        images=rows - rejected - merged,
        held_out=samples.held_out,
        merged=merged,
        filtered_captions={
            name.removeprefix(FILTERED): int(counts[name]) for name in sorted(counts) if name.startswith(FILTERED)
        },
    )


def unite_rows(block: pa.Table, folder: str | None, settings: ImageSettings) -> pa.Table:
    """Apply what was decided about the rows of a block, then the filters of captions, then hide captions.

    Args:
        block: SAMPLE or FINGERPRINT rows.
        folder: of the DUPLICATE rows of the set; None: there are none.
        settings: of the stage.

    Returns:
        SAMPLE rows, one for each row of the block.
    """
    rows = block.select(SAMPLE.names).to_pylist()
    for row in rows:
        if folder:
            decided = read_decided(folder, row["shard"]).get(row["key"])
            if decided:
                _apply(row, decided)
        if row["reason"] is None and settings.filters.of_captions:
            _filter(row, settings.filters)
        if row["reason"] is None and settings.hidden:
            row.update(hide_captions(row, num_shown=settings.hidden.captions_per_image, seed=settings.hidden.seed))
    return to_table(rows, SAMPLE)


@lru_cache(maxsize=8)
def read_decided(folder: str, shard: str) -> dict[str, list[Row]]:
    """Read the DUPLICATE rows of a shard.

    Args:
        folder: of the rows of a set.
        shard: name of the shard.

    Returns:
        Key -> its rows: at most one that says where it goes, and one with what it gets.
    """
    fs, root = fsspec.url_to_fs(f"{folder}/shard={quote(shard, safe='')}")
    by_key: dict[str, list[Row]] = {}
    if not fs.exists(root):
        return by_key
    for name in sorted(fs.ls(root, detail=False)):
        with fs.open(name, "rb") as file:
            table = pq.read_table(file, partitioning=None)
        for row in table.to_pylist():
            by_key.setdefault(row["key"], []).append(row)
    return by_key


def _apply(row: Row, decided: Sequence[Row]) -> None:
    """Set what a row gets, and its reason if it goes."""
    for decision in decided:
        if decision["action"] == "gets":
            row.update({name: decision[name] for name in ("captions", "labels", "negative_labels", "given_tags")})
    for decision in decided:
        other, kind = decision["other_key"], decision["kind"]
        where = "held-out " if decision["other_set"] else ""
        if decision["action"] == "merged":
            row["reason"], row["detail"] = MERGED, f"{kind}: the image of {other}"
            row.update({"captions": [], "given_tags": None})
        elif decision["action"] == "left_out":
            near = {
                "near": f", {decision['distance']} bits differ",
                "embedding": f", cosine {1 - decision['distance'] / 1000:.3f}",
            }.get(kind, "")
            row["reason"], row["detail"] = "duplicate_image", f"{kind}{near}: {where}{other}"
        elif decision["action"] == "placeholder":
            row["reason"], row["detail"] = (
                "duplicate_image",
                f"{kind}: more rows than data.duplicates.max_rows, {other}",
            )


def _filter(row: Row, filters: FiltersConfig) -> None:
    """Take away the captions that are filtered; reject the row if nothing is left."""
    texts = row["captions"] or []
    found = [find_reason(text, filters) for text in texts]
    taken = [{"text": text, "reason": reason} for text, reason in zip(texts, found, strict=True) if reason]
    if not taken:
        return
    row["filtered_captions"] = taken
    places = [index for index, reason in enumerate(found) if reason is None]
    row["captions"] = [texts[index] for index in places]
    if row["given_tags"]:
        row["given_tags"] = [
            {**tag, "caption": None if tag["caption"] is None else places.index(tag["caption"])}
            for tag in row["given_tags"]
            if tag["caption"] is None or tag["caption"] in places
        ] or None
    if not row["captions"] and row["labels"] is None and row["negative_labels"] is None and not row["given_tags"]:
        row["reason"], row["detail"] = taken[0]["reason"], f"no caption is left of {len(texts)}"


def describe(duplicates: Duplicates, fingerprints: Fingerprints) -> str | None:
    """What was found, in one line.

    Args:
        duplicates: of all sets.
        fingerprints: of the training data.

    Returns:
        The counts, and where the pairs are; None if there are none.
    """
    counts = {
        "merged into one row an image": duplicates.count(TRAIN, "merged"),
        "left out as copies of other training images": duplicates.count(TRAIN, "left_out", held_out=False),
        "left out as placeholders": duplicates.count(TRAIN, "placeholder"),
        "left out as copies of held-out images": duplicates.count(TRAIN, "left_out", held_out=True),
        "listed only": duplicates.count(TRAIN, "listed"),
    }
    parts = [f"{count:,} {what}" for what, count in counts.items() if count]
    if not parts:
        return None
    return f"images: of {fingerprints.rows_out:,} training rows {', '.join(parts)}; the pairs are in {duplicates.path}"


def _nothing_left(duplicates: Duplicates | None, rows: int, *, folder: str) -> str:
    if duplicates and duplicates.count(TRAIN, "left_out", held_out=True):
        return (
            f"data.train: all of the {rows:,} rows show images that are also in data.eval, so none is left to train "
            f"on; name other data, or set data.duplicates.of_eval=keep (see {folder})"
        )
    return f"images: none of the {rows:,} rows is left; see {folder}, and check data.duplicates and data.filters"


def _name(name: str, samples: Samples) -> str:
    """The name of a step for a set: that of the set's own stage has its ending."""
    return name + samples.stage.removeprefix("shards")


def _count(block: pa.Table) -> dict[str, float]:
    reasons = Counter(block["reason"].to_pylist())
    merged, usable = reasons.pop(MERGED, 0), reasons.pop(None, 0)
    taken = Counter(caption["reason"] for row in block["filtered_captions"].to_pylist() for caption in row or ())
    captions = {f"{FILTERED}{reason}": count for reason, count in taken.items()}
    return {"rows": len(block), MERGED: merged, "rejected": len(block) - merged - usable, **captions}
