"""The step `image_scores`: what models say of each image, for filters and for near duplicates by embeddings.

    fingerprints -> image_scores (decode tasks -> model actors) -> [ similarity ] -> duplicates

Three things, each only where it is asked for: the cosine of an image and the nearest of its captions, the probability
of a classifier's unsafe classes, and the embedding of the image. A row that a filter leaves out keeps its place with
its reason. A quantile needs all cosines first: they are counted in bins, and the short step `similarity` applies the
edge that it lies at.

Letters: B rows, S pixels a side, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ram_ray.config import RunConfig
from ram_ray.curation.image_models import Classifier, Embedder
from ram_ray.curation.score_settings import ImageScoreSettings, SimilaritySettings
from ram_ray.data.pixels import with_pixels
from ram_ray.records import FINGERPRINT, Reason
from ram_ray.results import Fingerprints, ImageScores
from ram_ray.runtime.actors import model_actors, predictor_options
from ram_ray.runtime.allocator import prepare_model_process
from ram_ray.runtime.annotate import annotate, reject_counted
from ram_ray.runtime.artifacts import Run
from ram_ray.runtime.rows import sum_blocks
from ram_ray.settings.curation import CurationEncoderConfig

BINS = 4000  # of cosines from -1 to 1, for the quantile


class ImageScorer:
    """An actor: the models, and what they make of a batch of rows.

    Args:
        settings: of the step.
        device: of the models.
        precision: of the models on a GPU.
        threads: CPU threads; None: as PyTorch has it.
    """

    def __init__(self, settings: ImageScoreSettings, *, device: str, precision: str, threads: int | None) -> None:
        prepare_model_process(device, threads=threads)
        self._settings = settings
        options = {"device": device, "precision": precision}
        self._embedder = Embedder(settings.encoder, **options) if settings.encoder else None
        self._classifier = None
        if settings.unsafe_model:
            source, revision = settings.unsafe_model, settings.unsafe_revision
            self._classifier = Classifier(source, revision=revision, unsafe=settings.unsafe_labels, **options)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Score rows.

        Args:
            block: FINGERPRINT rows (B) with `pixels` uint8 (S, S, 3); rows with a reason are not looked at.

        Returns:
            The rows without pixels, with `similarity` and `embedding`; those that a filter leaves out have its reason.
        """
        chunks = block["pixels"].chunks
        rows = block.drop_columns(["pixels"]).to_pylist()
        usable = [index for index, row in enumerate(rows) if row["reason"] is None]
        if usable:
            pixels = np.concatenate([chunk.to_numpy(zero_copy_only=False) for chunk in chunks])[usable]
            self._score([rows[index] for index in usable], pixels)
        return pa.Table.from_pylist(rows, schema=FINGERPRINT)

    def _score(self, rows: Sequence[dict], pixels: np.ndarray) -> None:
        settings = self._settings
        if self._classifier:
            for row, probability in zip(rows, self._classifier.unsafe(pixels).tolist(), strict=True):
                if probability > settings.max_unsafe:
                    reject(row, "unsafe", f"{probability:.3f} by {settings.unsafe_model}")
        if not self._embedder:
            return
        vectors = self._embedder.images(pixels)
        if settings.embedding:
            for row, vector in zip(rows, vectors.astype(np.float16), strict=True):
                row["embedding"] = vector.tobytes()
        if not settings.of_similarity:
            return
        texts = list(dict.fromkeys(text for row in rows for text in row["captions"] or ()))
        places = {text: index for index, text in enumerate(texts)}
        embedded = self._embedder.texts(texts) if texts else np.zeros((0, vectors.shape[1]), np.float32)
        for row, vector in zip(rows, vectors, strict=True):
            if not row["captions"]:
                continue  # images of labels alone
            similarity = max(float(vector @ embedded[places[text]]) for text in row["captions"])
            row["similarity"] = similarity
            if settings.min_similarity is not None and similarity < settings.min_similarity:
                reject(row, "dissimilar", f"cosine {similarity:.3f} is below {settings.min_similarity}")


def reject(row: dict, reason: Reason, detail: str) -> None:
    """Give a row a reason, unless it has one.

    Args:
        row: a FINGERPRINT row; changed.
        reason: why it is left out.
        detail: for the user.
    """
    if row["reason"] is None:
        row["reason"], row["detail"] = reason, detail


def score_images(run: Run, config: RunConfig, fingerprints: Fingerprints) -> Fingerprints:
    """Run the step `image_scores`, and `similarity` for a quantile.

    Args:
        run: the run; the steps' folders are created in it.
        config: of the run.
        fingerprints: FINGERPRINT rows.

    Returns:
        FINGERPRINT rows; `fingerprints` themselves where no model is asked for.

    Raises:
        ValueError: if no row is left, or no encoder is configured.
    """
    settings, execution = ImageScoreSettings.from_config(config, held_out=fingerprints.held_out), config.execution
    if not settings.needs_model:
        return fingerprints
    name = fingerprints.stage.replace("fingerprints", "image_scores")
    stage = run.stage(name, ImageScores, settings=settings, inputs=[fingerprints])
    if stage.result:
        return apply_quantile(run, config, stage.result)
    encoder = settings.encoder or CurationEncoderConfig()

    def transform(dataset):
        pixels = with_pixels(dataset, size=encoder.side, batch_size=encoder.batch_size, execution=execution)
        return pixels.map_batches(
            ImageScorer,
            fn_constructor_args=(settings,),
            fn_constructor_kwargs=predictor_options(execution),
            batch_format="pyarrow",
            batch_size=encoder.batch_size,
            **model_actors(execution.resources),
        )

    rows_in = fingerprints.rows_out
    counts = annotate(
        stage, transform, source=fingerprints.path, schema=FINGERPRINT, execution=execution, rows_in=rows_in
    )
    rows, rejected = reject_counted(stage, counts, execution=execution)
    assert rows == rows_in, f"{name}: {rows_in} rows in, {rows} out"
    if rows == rejected:
        raise ValueError(f"{name}: the models leave out all {rows} images; see {run.path('rejected', name)}")
    return apply_quantile(run, config, stage.finish(**_counts(fingerprints, rows, rejected)))


def apply_quantile(run: Run, config: RunConfig, scores: ImageScores) -> ImageScores:
    """Run the step `similarity`: leave out the share of the images that are least like their captions.

    Args:
        run: the run; the step's folder is created in it.
        config: of the run.
        scores: FINGERPRINT rows with `similarity`.

    Returns:
        FINGERPRINT rows; `scores` themselves without a quantile.
    """
    settings, execution = SimilaritySettings.from_config(config, held_out=scores.held_out), config.execution
    if settings.similarity_quantile is None:
        return scores
    stage = run.stage("similarity", ImageScores, settings=settings, inputs=[scores])
    if stage.result:
        return stage.result
    bins = sum_blocks(scores.path, count_bins, columns=["reason", "similarity"], execution=execution)
    least = find_quantile(bins, settings.similarity_quantile)

    def leave_out(block: pa.Table) -> pa.Table:
        rows = block.to_pylist()
        for row in rows:
            if row["similarity"] is not None and row["similarity"] < least:
                reject(row, "dissimilar", f"cosine {row['similarity']:.3f} is below the quantile, {least:.4f}")
        return pa.Table.from_pylist(rows, schema=FINGERPRINT)

    counts = annotate(
        stage,
        lambda dataset: dataset.map_batches(
            leave_out, batch_format="pyarrow", batch_size=None, num_cpus=execution.task_cpus
        ),
        source=scores.path,
        schema=FINGERPRINT,
        execution=execution,
        rows_in=scores.rows_out,
    )
    rows, rejected = reject_counted(stage, counts, execution=execution)
    return stage.finish(**_counts(scores, rows, rejected))


def count_bins(block: pa.Table) -> dict[str, float]:
    """Count cosines by bin, for `rows.sum_blocks`.

    Args:
        block: rows with `reason` and `similarity`; rejected rows do not count.

    Returns:
        Number of the bin -> rows.
    """
    values = block.filter(pc.and_(pc.is_null(block["reason"]), pc.is_valid(block["similarity"])))["similarity"]
    bins = ((values.to_numpy() + 1) / 2 * BINS).astype(int).clip(0, BINS - 1)
    numbers, counts = np.unique(bins, return_counts=True)
    return dict(zip(map(str, numbers.tolist()), map(float, counts.tolist()), strict=True))


def find_quantile(counts: dict[str, float], share: float) -> float:
    """The cosine below which a share of the rows lies, to the edge of a bin; never more rows than the share.

    Args:
        counts: as `count_bins` gives them, added up.
        share: 0 to 1.

    Returns:
        The cosine.
    """
    total, below = sum(counts.values()), 0.0
    for number in sorted(map(int, counts)):
        below += counts[str(number)]
        if below > share * total:
            return 2 * number / BINS - 1
    return -1.0


def _counts(before: Fingerprints, rows: int, rejected: int) -> dict:
    left = rows - rejected
    return {
        **{"shards": before.shards, "held_out": before.held_out},
        **{"rows_in": rows, "rows_out": left, "rejected": rejected, "images": left},
    }
