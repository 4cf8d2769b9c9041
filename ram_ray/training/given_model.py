"""The stage `given`: a bundle that the user names, with the labels of the run, as a model of the run.

A training starts from it (`start`), or the data engine scores with it (`engine.model`). The bundle is ours, or an
imported RAM, RAM++ or Tag2Text; its sizes, tokenizer and text encoder stay its own. Labels are matched by name and
synonym (`models.label_match`) and keep their embeddings; a new label is embedded by the text encoder that made them.
The model is written to the run, so all later stages read it as they read a model that the run trained.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import NamedTuple

import fsspec
from pydantic import Field

from ram_ray.config import RunConfig
from ram_ray.evaluation_results import HeldOutLabels
from ram_ray.label_system import LabelSystem
from ram_ray.models.bundle import Bundle, load_bundle, save_bundle
from ram_ray.models.bundle_config import BUNDLE_FILES, read_config
from ram_ray.models.descriptions import embed_labels, read_descriptions
from ram_ray.models.label_match import MATCH_FILE, LabelMatch, match_labels
from ram_ray.models.relabel import relabel
from ram_ray.models.teacher import Teacher
from ram_ray.results import DualEncoderResult, GivenModel, LabelSystemResult
from ram_ray.runtime.artifacts import Run
from ram_ray.runtime.content import content_digest
from ram_ray.runtime.input_file import InputFile
from ram_ray.runtime.storage import local_copy, make_folder
from ram_ray.runtime.tasks import Task
from ram_ray.settings.section import RUNTIME_ONLY, Section, StageSettings

logger = logging.getLogger(__name__)

SHOWN_NAMES = 20  # of labels, in a line


class NamedBundle(Section):
    """A bundle that the configuration names; only its content is part of the identity."""

    source: str = Field(json_schema_extra=RUNTIME_ONLY)  # path, URI or Hugging Face id
    revision: str | None = Field(json_schema_extra=RUNTIME_ONLY)
    digest: str


class GivenModelSettings(StageSettings):
    """All that a given model depends on, beside the label system and the encoders of the run."""

    bundle: NamedBundle
    descriptions: InputFile | None  # of new labels, for RAM++
    unused: tuple[str, ...] = Field(json_schema_extra=RUNTIME_ONLY)  # fields of section `model` with other values

    @classmethod
    def from_config(cls, config: RunConfig, *, source: str, revision: str | None) -> GivenModelSettings:
        """Take the settings out of the configuration of the run, and read the bundle's sizes and digest.

        Args:
            config: of the run.
            source: path, URI or Hugging Face id of the bundle.
            revision: commit of an id.

        Returns:
            The settings.

        Raises:
            ValueError: if it is no bundle.
        """
        model = read_config(source, revision=revision)
        named = [name for name in type(model).model_fields if name in config.model.model_fields_set - {"image_size"}]
        digest = content_digest(source, revision=revision, files=BUNDLE_FILES)
        return cls(
            descriptions=InputFile.find(config.labels.descriptions) if model.architecture == "ram_plus" else None,
            bundle=NamedBundle(source=source, revision=revision, digest=digest),
            unused=tuple(name for name in named if getattr(config.model, name) != getattr(model, name)),
        )


class Encoder(NamedTuple):
    """The encoder of the run."""

    source: str
    revision: str | None
    is_trained: bool  # by the run, so it did not make the embeddings of a given bundle


def give_model(
    run: Run,
    config: RunConfig,
    labels: LabelSystemResult,
    dual_encoder: DualEncoderResult,
    *,
    source: str,
    revision: str | None,
) -> GivenModel:
    """Write a bundle with the labels of the run.

    Args:
        run: gets the stage's folder.
        config: of the run.
        labels: label system of the run.
        dual_encoder: embeds new labels if the bundle has no text encoder and it is not trained by the run.
        source: path, URI or Hugging Face id of the bundle.
        revision: commit of an id.

    Returns:
        The model.

    Raises:
        ValueError: if it is no bundle, has no label of the run or a held-out one, or new labels cannot be embedded.
    """
    settings, execution = GivenModelSettings.from_config(config, source=source, revision=revision), config.execution
    stage = run.stage("given", GivenModel, settings=settings, inputs=[labels, dual_encoder])
    if stage.result:
        return stage.result
    if isinstance(labels, HeldOutLabels):
        check_held_out(labels, source=source, revision=revision)
    if settings.unused:
        logger.info("given: the model is %s; not used of section model: %s", source, ", ".join(settings.unused))
    encoder = Encoder(dual_encoder.source, dual_encoder.revision, is_trained=dual_encoder.steps is not None)
    system = LabelSystem.load(labels.uri)
    adapt = Task(adapt_bundle, num_cpus=execution.task_cpus)
    match, dropped, image_size = adapt.run(settings.bundle, system, encoder, settings.descriptions, stage.path)
    for what, names in (("new", [system[id].name for id in match.new]), ("dropped", dropped)):
        if names:
            logger.info("given: %s labels %s: %s", f"{len(names):,}", what, shorten(names))
    zero = dict.fromkeys(("rows_in", "rejected", "steps", "images_seen"), 0)
    counts = {"kept": match.kept, "by_synonym": match.by_synonym, "new": match.new, "dropped": match.dropped}
    return stage.finish(
        image_size=image_size,
        strategy="none",
        source=source,
        **zero,
        **{name: len(ids) for name, ids in counts.items()},
    )


def check_held_out(labels: HeldOutLabels, *, source: str, revision: str | None) -> None:
    """Check that a bundle has none of the labels that the run holds out: it was trained on its own.

    Args:
        labels: of the run.
        source: path, URI or Hugging Face id of the bundle.
        revision: commit of an id.

    Raises:
        ValueError: with their names.
    """
    folder = local_copy(source, revision=revision, files=("label_system.json",))
    held_out = LabelSystem.load(labels.held_out_uri)
    match = match_labels(LabelSystem.load(str(folder / "label_system.json")), held_out)
    if match.kept:
        names = shorten([held_out[id].name for id in match.kept])
        raise ValueError(
            f"evaluate.hold_out_labels: {source}, which a training or the data engine starts from, was trained on "
            f"{names}; hold out other labels, or start from no bundle"
        )


def adapt_bundle(
    named: NamedBundle,
    labels: LabelSystem,
    encoder: Encoder,
    descriptions: InputFile | None,
    path: str,
) -> tuple[LabelMatch, list[str], int]:
    """Write the bundle with other labels; the task of the stage.

    Args:
        named: the bundle.
        labels: of the run.
        encoder: of the run.
        descriptions: of labels, for RAM++; None: its templates.
        path: folder or URI to write to.

    Returns:
        How labels were matched, the names of the bundle's labels that are dropped, and the model's image size.

    Raises:
        ValueError: if the bundle has no label of the run, or new labels cannot be embedded.
    """
    bundle = load_bundle(named.source, revision=named.revision)
    match = match_labels(bundle.labels, labels)
    if not match.kept:
        raise ValueError(
            f"{named.source} has none of the {len(labels):,} labels of the run, such as {labels[0].name!r}; set "
            "labels.system to its label_system.json"
        )
    new = [labels[id].name for id in match.new]
    teacher = find_text_encoder(bundle, new, encoder, source=named.source)
    described = read_descriptions(descriptions.uri) if descriptions else None
    queries = embed_labels(bundle.model.config, new, teacher, descriptions=described) if new and teacher else None
    text = match.to_json(bundle.labels, labels)
    relabel(bundle.model, match, queries)
    card: dict[str, object] = {"stage": "given", "from": named.source, "kept labels": len(match.kept)}
    fs, root = fsspec.url_to_fs(path)
    make_folder(fs, root)
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(folder, bundle.model, labels=labels, tokenizer=bundle.tokenizer, teacher=teacher, card=card)
        (Path(folder) / MATCH_FILE).write_text(text)
        fs.put(f"{folder}/", f"{root}/", recursive=True)
    return match, [bundle.labels[id].name for id in match.dropped], bundle.model.config.image_size


def find_text_encoder(bundle: Bundle, new: list[str], encoder: Encoder, *, source: str) -> Teacher | None:
    """Find the text encoder of a bundle's label embeddings.

    Args:
        bundle: the bundle.
        new: names of labels that it has to embed.
        encoder: of the run.
        source: path or id of the bundle, for errors.

    Returns:
        The encoder that is in the bundle, else that of the run; None where none is needed.

    Raises:
        ValueError: if it is needed and there is none.
    """
    if bundle.model.config.architecture == "tag2text":
        return None
    if bundle.has_text_encoder:
        return bundle.teacher()
    if not new:
        return None
    if encoder.is_trained:
        raise ValueError(
            f"{source} has no text encoder to embed its new labels ({shorten(new)}); import it with --text-encoder, or "
            "set represent.clip to the CLIP that made its label embeddings"
        )
    teacher = Teacher.from_pretrained(encoder.source, revision=encoder.revision)
    if teacher.embed_dim != bundle.model.config.label_width:
        raise ValueError(
            f"{source} has label embeddings of {bundle.model.config.label_width} values and no text encoder, and "
            f"{encoder.source} makes {teacher.embed_dim}; set represent.clip to the CLIP that made them"
        )
    return teacher


def shorten(names: list[str]) -> str:
    """Join names, at most `SHOWN_NAMES` of them.

    Args:
        names: of labels.

    Returns:
        The names with commas.
    """
    more = f" and {len(names) - SHOWN_NAMES:,} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
