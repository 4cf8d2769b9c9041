"""The stage `parse`: the names and kinds that captions mention.

A row keeps the names of each caption, and the captions that the parser rejected with their reasons.
"""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.captions.parser import SHIPPED, Tag, load_pipeline, process_parser
from ram_ray.config import RunConfig
from ram_ray.records import PARSED, to_table
from ram_ray.results import Parsed, Samples
from ram_ray.runtime.annotate import annotate, caption_rows_per_block, map_captions
from ram_ray.runtime.artifacts import Run
from ram_ray.runtime.per_process import PerProcess
from ram_ray.runtime.rows import Counted
from ram_ray.settings.section import StageSettings

Names = list[dict[str, int | str]]  # a column of PARSED rows
REJECTED = "rejected_captions/"  # the name of a count of rejected captions begins with it and ends with the reason


class ParseSettings(StageSettings):
    """All that the names in captions depend on."""

    parser: str
    max_caption_chars: int

    @classmethod
    def from_config(cls, config: RunConfig) -> ParseSettings:
        """Take the settings out of the configuration of the run."""
        return cls(parser=config.labels.parser, max_caption_chars=config.labels.max_caption_chars)


class CaptionReader:
    """`records.SAMPLE` rows to `records.PARSED` rows, with a parser for the life of a process."""

    def __init__(self, settings: ParseSettings) -> None:
        self._parser = process_parser(settings.parser, max_chars=settings.max_caption_chars)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Parse the captions of a block.

        Args:
            block: SAMPLE rows.

        Returns:
            A table of PARSED rows, one for each row of the block.
        """
        rows = block.to_pylist()
        for row, (names, rejections) in zip(rows, self._parse([row["captions"] for row in rows]), strict=True):
            row["parsed"], row["rejected_captions"] = names, rejections
        measured = [row for row in rows if row.get("hidden_captions") is not None]
        for row, (names, rejections) in zip(
            measured, self._parse([row["hidden_captions"] for row in measured]), strict=True
        ):
            rejected = {rejection["caption"] for rejection in rejections}
            row["hidden_captions"] = [
                "" if index in rejected else text for index, text in enumerate(row["hidden_captions"])
            ]
            row["parsed_hidden"] = names
        return to_table(rows, PARSED)

    def _parse(self, rows: list[list[str]]) -> list[tuple[Names, Names]]:
        """Names and rejected captions of each row; the captions of all rows are a single batch of the parser."""
        captions = [text for row in rows for text in row]
        tags = self._parser.parse(captions) if captions else []
        results = iter(zip(tags, self._reasons(captions, tags), strict=True))
        parsed_rows = []
        for row in rows:
            parsed: Names = []
            rejections: Names = []
            for index in range(len(row)):
                names, reason = next(results)
                parsed += [{"caption": index, "name": tag.name, "kind": tag.kind} for tag in dict.fromkeys(names)]
                rejections += [{"caption": index, "reason": reason}] if reason else []
            parsed_rows.append((parsed, rejections))
        return parsed_rows

    def _reasons(self, captions: list[str], tags: list[list[Tag]]) -> list[str | None]:
        """Reason of each rejected caption, else None; only captions without tags can be rejected."""
        read = getattr(self._parser, "read", None)  # optional method of a parser
        empty = [text for text, names in zip(captions, tags, strict=True) if not names]
        if read is None or not empty:
            return [None] * len(captions)
        reasons = iter([reading.reason for reading in read(empty)])
        return [None if names else next(reasons) for names in tags]


def parse(run: Run, config: RunConfig, samples: Samples, *, name: str = "parse") -> Parsed:
    """Run the stage `parse`: names and kinds in every caption.

    Args:
        run: the run; the stage's folder is created in it.
        config: of the run.
        samples: SAMPLE rows.
        name: of this stage.

    Returns:
        The PARSED rows.

    Raises:
        ValueError: if the configured parser is not installed.
    """
    settings, execution = ParseSettings.from_config(config), config.execution
    stage = run.stage(name, Parsed, settings=settings, inputs=[samples])
    if stage.result:
        return stage.result
    if settings.parser != SHIPPED:  # raises before any task starts if the pipeline is missing
        load_pipeline(settings.parser)
    reader = PerProcess(CaptionReader, settings)
    counts = annotate(
        stage,
        lambda dataset: map_captions(dataset, reader, execution=execution),
        source=samples.path,
        schema=PARSED,
        execution=execution,
        rows_in=samples.rows_out,
        count=Counted(_count_parsed, ("captions", "parsed", "rejected_captions")),
        rows_per_block=caption_rows_per_block(samples.rows_out, execution=execution),
    )
    images = int(counts["rows"])
    assert samples.rows_out == images, f"{name}: {samples.rows_out} rows in, {images} out"
    return stage.finish(
        rows_in=images,
        rows_out=images,
        rejected=0,
        images=images,
        tags=int(counts["tags"]),
        captions=int(counts["captions"]),
        rejected_captions={
            name.removeprefix(REJECTED): int(counts[name]) for name in sorted(counts) if name.startswith(REJECTED)
        },
        held_out=samples.held_out,
    )


def _count_parsed(block: pa.Table) -> dict[str, float]:
    tags = [{(tag["name"], tag["kind"]) for tag in row} for row in block["parsed"].to_pylist()]
    captions = pc.sum(pc.list_value_length(block["captions"])).as_py() or 0
    reasons = Counter(rejection["reason"] for row in block["rejected_captions"].to_pylist() for rejection in row or ())
    rejected = {f"{REJECTED}{reason}": count for reason, count in reasons.items()}
    return {"rows": len(block), "tags": sum(len(row_tags) for row_tags in tags), "captions": captions, **rejected}
