"""`python jobs/vision_predictions.py`: what Google Cloud Vision says of the images of a set, as a predictions file."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ram_ray.data.images import Limits
    from ram_ray.evaluation.sets.prepare import EvalSet
    from ram_ray.records import Json, Row
    from ram_ray.serving.vision_client import VisionClient

logger = logging.getLogger(__name__)

KEY_VARIABLE = "GOOGLE_API_KEY"


def vision_predictions(
    eval_set: Annotated[
        str, typer.Option("--eval", metavar="NAME=FILE", help="Evaluation set with images, as of jobs/benchmark.py.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="JSONL", help="Predictions file; a second call goes on.")],
    url: Annotated[
        str, typer.Option("--url", metavar="URL", help="Service of this shape; the default is Google's.")
    ] = "https://vision.googleapis.com",
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", metavar="FILE", help=f"File with your key (default: ${KEY_VARIABLE})."),
    ] = None,
    max_results: Annotated[int, typer.Option("--max-results", metavar="N", min=1, help="Most labels an image.")] = 50,
    max_images: Annotated[
        int | None, typer.Option("--max-images", metavar="N", min=1, help="Ask for so many images and stop.")
    ] = None,
) -> int:
    """Ask Google Cloud Vision for the labels of a set's images, with your own key, and write a predictions file.

    Google bills each image. Images that the file has are not asked for again, but for those with an error.
    """
    from ram_ray.cli.compare import parse_sets
    from ram_ray.config import RunConfig
    from ram_ray.evaluation.sets.prepare import SetReading, prepare_set
    from ram_ray.runtime.screen import shown
    from ram_ray.serving.client import ServerError
    from ram_ray.serving.vision_client import GOOGLE, VisionClient

    key = read_key(key_file)
    if key is None and url.rstrip("/") == GOOGLE:
        raise ValueError(f"Google asks for a key: set {KEY_VARIABLE}, or name a file with --key-file")
    (spec,) = parse_sets([eval_set])
    with shown(), tempfile.TemporaryDirectory() as folder:
        reading = SetReading.from_config(RunConfig())
        prepared = prepare_set(spec, f"{folder}/set", reading=reading)
        if not prepared.has_images:
            raise ValueError(f"--eval {prepared.name} names no images to send; add images=FOLDER")
        out.parent.mkdir(parents=True, exist_ok=True)
        done = keep_finished(out)
        waiting = [row for row in read_rows(prepared) if row["key"] not in done]
        waiting = waiting[:max_images]
        logger.info("%s: %s images are done, %s are asked for", out, f"{len(done):,}", f"{len(waiting):,}")
        client = VisionClient(url, api_key=key)
        try:
            errors = write_predictions(client, waiting, out, max_results=max_results, limits=reading.limits)
        except ServerError as error:
            logger.error("%s: %s; the same command goes on", url, error)
            return 1
    logger.info("written: %s; %s images have an error", out, f"{errors:,}")
    return 0


def read_key(path: Path | None) -> str | None:
    """Read the user's key.

    Args:
        path: of a file with the key; None: the variable of the environment.

    Returns:
        The key; None if there is none.

    Raises:
        ValueError: if the file is empty.
    """
    if path is None:
        return os.environ.get(KEY_VARIABLE) or None
    key = path.read_text(encoding="utf-8").strip()
    if not key or len(key.split()) > 1:
        raise ValueError(f"--key-file {path}: holds no key, which is one word")
    return key


def keep_finished(out: Path) -> set[str]:
    """Keep the lines of images that need not be asked for again: not those with an error, nor one that was cut.

    Args:
        out: the predictions file; it need not exist.

    Returns:
        Keys of the images.

    Raises:
        ValueError: if a line is no prediction.
    """
    from ram_ray.evaluation.systems.predictions import parse_prediction

    if not out.exists():
        return set()
    lines = out.read_bytes().splitlines(keepends=True)
    kept: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            break  # the last line of a call that was killed
        try:
            prediction = parse_prediction(line)
        except ValueError as error:
            raise ValueError(f"{out}, line {number}: {error}; name a new file with --out") from None
        if prediction.error is None:
            kept[prediction.key] = line
    part = out.with_name(f"{out.name}.part")
    part.write_bytes(b"".join(kept.values()))
    part.replace(out)
    return set(kept)


def read_rows(eval_set: EvalSet) -> Iterator[Row]:
    """Read where the images of a set are.

    Args:
        eval_set: the set.

    Yields:
        Rows with key, uri, offset, nbytes and reason; images that cannot be used are left out.
    """
    import pyarrow.parquet as pq

    from ram_ray.evaluation.sets.rows import look_up_sizes

    for path in sorted(Path(eval_set.folder).glob("rows-*.parquet")):
        for row in look_up_sizes(pq.read_table(path)).to_pylist():
            if row["reason"] is None:
                yield row
            else:
                logger.info("not sent: %s: %s %s", row["key"], row["reason"], row["detail"] or "")


def write_predictions(client: VisionClient, rows: list[Row], out: Path, *, max_results: int, limits: Limits) -> int:
    """Ask for the labels of images, request by request, and append a line for each.

    Args:
        client: of the service.
        rows: where the images are.
        out: the predictions file.
        max_results: most labels of an image.
        limits: of an image.

    Returns:
        The number of images with an error.

    Raises:
        ServerError: if a request is refused; the lines before it are written.
    """
    from ram_ray.data.fetch import read_bytes
    from ram_ray.records import Reject
    from ram_ray.serving.vision_client import MAX_BYTES

    errors = 0
    with out.open("a", encoding="utf-8") as file:
        for batch in batches(rows):
            contents = read_bytes(*([row[name] for row in batch] for name in ("uri", "offset", "nbytes")))
            answers: list[Json] = [{} for _ in batch]
            sent: list[tuple[int, bytes]] = []
            for index, content in enumerate(contents):
                if isinstance(content, Reject) or len(content) > min(MAX_BYTES, limits.max_bytes):
                    why = str(content) if isinstance(content, Reject) else f"{len(content):,} bytes are too many"
                    answers[index] = {"tags": [], "scores": [], "error": why}
                else:
                    sent.append((index, content))
            if sent:
                found = client.annotate([content for _, content in sent], max_results=max_results)
                for (index, _), answer in zip(sent, found, strict=True):
                    answers[index] = answer
            for row, answer in zip(batch, answers, strict=True):
                errors += "error" in answer
                file.write(json.dumps({"key": row["key"], **answer}, ensure_ascii=False) + "\n")
            file.flush()
    return errors


def batches(rows: list[Row]) -> Iterator[list[Row]]:
    """Cut rows into requests by the service's limits.

    Args:
        rows: with `nbytes`.

    Yields:
        The rows of a request.
    """
    from ram_ray.serving.vision_client import MAX_BYTES, MAX_IMAGES

    batch: list[Row] = []
    num_bytes = 0
    for row in rows:
        if batch and (len(batch) == MAX_IMAGES or num_bytes + row["nbytes"] > MAX_BYTES):
            yield batch
            batch, num_bytes = [], 0
        batch.append(row)
        num_bytes += row["nbytes"]
    if batch:
        yield batch
