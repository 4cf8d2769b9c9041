"""Preflight of the models that a run names: they are pinned, of a known kind, and load except for their weights.

A model is a local folder, a URI, a file of an installed package, or a hub id. Only its small files are read (config,
tokenizer, preprocessor), so a check takes seconds; for the weights, only the names of the files are checked.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import re
import tempfile
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import fsspec

from ram_ray.config import RunConfig
from ram_ray.curation.score_settings import ImageScoreSettings
from ram_ray.preflight.bundle import check_bundle, sections_after
from ram_ray.preflight.encoder import find_encoder_problems, training_sizes
from ram_ray.preflight.model_checks import CHECKS, check_classifier
from ram_ray.runtime.storage import PACKAGE, find_files, package_path
from ram_ray.settings.data_engine import OWN_DETECTORS
from ram_ray.settings.training import TrainConfig

SMALL_FILE = 20_000_000  # bytes; larger files are weights and are not read
HUB_TIMEOUT_S = 5.0
SMALL_PATTERNS = ["*.json", "*.txt", "*.model"]
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class NamedModel:
    """A model that a configuration names."""

    field: str
    source: str  # path, URI or hub id
    revision_field: str
    revision: str | None
    load: Callable[[Path, list[str]], None]  # folder with the small files, names of all files; raises on a problem

    @property
    def on_hub(self) -> bool:
        """Whether the source is a hub id: neither a URI nor a path."""
        return (
            "://" not in self.source and not self.source.startswith((".", "/", "~")) and not Path(self.source).exists()
        )


class HubUnreachable(Exception):
    """The hub did not answer, so a model could not be checked."""


def find_model_problems(config: RunConfig, *, stages: Sequence[str]) -> list[str]:
    """Find the problems of the models that these stages load.

    Args:
        config: configuration of the run.
        stages: names of the stages that will run.

    Returns:
        A line for each problem; one line for all models if the hub does not answer.
    """
    problems, unknown = find_encoder_problems(config, stages=stages), []
    try:
        models = {model.field: model for model in named_models(config, stages=stages)}
    except ValueError as error:
        return [*problems, str(error)]
    for model in models.values():
        if model.on_hub and not _COMMIT.fullmatch(model.revision or ""):
            problems.append(
                f"{model.revision_field}: {model.field} {model.source!r} is not pinned; set {model.revision_field} to "
                f"the commit (40 hexadecimal digits) of its repository, or {model.field} to a path that exists"
            )
            continue
        try:
            with _small_files(model) as (folder, names), _suppress_output():
                model.load(folder, names)
        except HubUnreachable:
            unknown.append(model)
        except Exception as error:  # each library has its own errors for a model that cannot be loaded
            problems.append(f"{model.field}: {model.source!r} cannot be loaded: {_one_line(error)}; set {model.field}")
    if unknown:
        named = ", ".join(f"{model.field} {model.source!r}" for model in unknown)
        problems.append(
            f"{named}: the model hub does not answer; set {'it' if len(unknown) == 1 else 'them'} to local folders"
        )
    return problems + _find_parser_problems(config, stages)


def named_models(config: RunConfig, *, stages: Sequence[str]) -> list[NamedModel]:
    """List the models that these stages load and that are not made by the run itself.

    Args:
        config: configuration of the run.
        stages: names of the stages that will run.

    Returns:
        The models; one that two stages load may be there twice.

    Raises:
        ValueError: if images are to be embedded, and no model is named that does so.
    """
    represent = config.represent
    models = []
    if "represent" in stages:
        if config.tokenizer != "trained":
            fields = ("tokenizer", config.tokenizer, "tokenizer_revision", config.tokenizer_revision)
            models.append(NamedModel(*fields, load=CHECKS["tokenizer"]))
        if represent.clip:
            fields = ("represent.clip", represent.clip, "represent.revision", represent.revision)
            models.append(NamedModel(*fields, load=CHECKS["dual encoder"]))
        elif represent.text_encoder:
            name, revision = "represent.text_revision", represent.text_revision
            fields = ("represent.text_encoder", represent.text_encoder, name, revision)
            models.append(NamedModel(*fields, load=CHECKS["text encoder"]))
            if represent.image_encoder.weights:
                crops = represent.image_encoder
                models.append(_encoder_model("represent.image_encoder", str(crops.weights), crops.revision))
        elif represent.images != "real" and represent.generator != "drawn":
            name, revision = "represent.generator", represent.generator_revision
            models.append(NamedModel(name, represent.generator, f"{name}_revision", revision, load=CHECKS["generator"]))
    models += _named_image_models(config)
    encoder = config.model.image_encoder
    embeds_crops = "represent" in stages and represent.text_encoder and config.crop_encoder == encoder
    if encoder.weights and (embeds_crops or training_sizes(config, stages=stages)):
        models.append(_encoder_model("model.image_encoder", encoder.weights, encoder.revision))
    return [*models, *_named_bundles(config, stages), *_named_detector(config, stages)]


def _named_bundles(config: RunConfig, stages: Sequence[str]) -> Iterator[NamedModel]:
    for name in ("pretrain", "retrain", "finetune"):
        section: TrainConfig = getattr(config, name)
        if section.bundle and name in stages:
            load = functools.partial(check_bundle, sections={name: section})
            yield NamedModel(f"{name}.start", section.bundle, f"{name}.start_revision", section.start_revision, load)
    if config.engine.model:
        captions = "generate" in stages and config.engine.generate.captions > 0
        load = functools.partial(check_bundle, sections=sections_after(config, stages), writes_captions=captions)
        yield NamedModel("engine.model", config.engine.model, "engine.revision", config.engine.revision, load)


def _named_image_models(config: RunConfig) -> Iterator[NamedModel]:
    """What filters and near duplicates by embeddings ask of each image, before all other stages."""
    settings, data = ImageScoreSettings.from_config(config, held_out=False), config.data
    if settings.unsafe_model:
        load = functools.partial(check_classifier, unsafe=settings.unsafe_labels, source=settings.unsafe_model)
        fields = ("data.filters.unsafe_model", settings.unsafe_model, "data.filters.unsafe_revision")
        yield NamedModel(*fields, settings.unsafe_revision, load=load)
    encoder, section = settings.encoder, "data.encoder" if data.encoder.is_set else "represent"
    if encoder and encoder.clip:
        fields = (f"{section}.clip", encoder.clip, f"{section}.revision")
        yield NamedModel(*fields, encoder.revision, load=CHECKS["dual encoder"])
    elif encoder:
        yield _encoder_model(
            f"{section}.image_encoder", str(encoder.image_encoder.weights), encoder.image_encoder.revision
        )


def _named_detector(config: RunConfig, stages: Sequence[str]) -> Iterator[NamedModel]:
    clean = config.engine.clean
    if "clean" in stages and clean.detector not in OWN_DETECTORS:
        fields = ("engine.clean.detector", clean.detector, "engine.clean.revision", clean.revision)
        yield NamedModel(*fields, load=CHECKS["detector"])


def _encoder_model(section: str, weights: str, revision: str | None) -> NamedModel:
    return NamedModel(f"{section}.weights", weights, f"{section}.revision", revision, load=CHECKS["encoder weights"])


def _find_parser_problems(config: RunConfig, stages: Sequence[str]) -> list[str]:
    from ram_ray.captions.parser import SHIPPED, load_pipeline

    if "parse" not in stages or config.labels.parser == SHIPPED:
        return []
    try:
        load_pipeline(config.labels.parser)
    except (ValueError, OSError) as error:
        return [f"labels.parser: {_one_line(error)}"]
    return []


@contextlib.contextmanager
def _small_files(model: NamedModel) -> Iterator[tuple[Path, list[str]]]:
    """A local folder with the model's small files, and the names of all its files."""
    if model.source.startswith(PACKAGE):
        yield _list_files(package_path(model.source))
    elif "://" in model.source:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch), _copy_small(model.source, Path(scratch))
    elif model.on_hub:
        yield _from_hub(model)
    else:
        path = Path(model.source).expanduser()
        if not path.exists():
            raise FileNotFoundError("there is no such file or folder")
        yield _list_files(path)


def _list_files(path: Path) -> tuple[Path, list[str]]:
    return path, [str(file.relative_to(path)) for file in path.rglob("*")] if path.is_dir() else [path.name]


def _copy_small(uri: str, folder: Path) -> list[str]:
    fs, root = fsspec.url_to_fs(uri)
    files = find_files(fs, root)
    if not files:
        raise FileNotFoundError("nothing is there")
    names = []
    for path, info in files.items():
        name = path.removeprefix(root.rstrip("/")).lstrip("/") or Path(path).name
        names.append(name)
        if (info.get("size") or 0) <= SMALL_FILE:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(path, str(target))
    return names


def _from_hub(model: NamedModel) -> tuple[Path, list[str]]:
    """The snapshot folder of the hub's cache, and the names of all files of the repository."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    online = _hub_answers()
    try:
        folder = Path(
            snapshot_download(
                model.source, revision=model.revision, allow_patterns=SMALL_PATTERNS, local_files_only=not online
            )
        )
    except LocalEntryNotFoundError:
        raise HubUnreachable from None
    if online:
        return folder, HfApi().list_repo_files(model.source, revision=model.revision)
    return folder, [str(path.relative_to(folder)) for path in folder.rglob("*")]


@functools.lru_cache(maxsize=1)
def _hub_answers() -> bool:
    """Whether the hub can be reached, checked once: its client would try for half a minute for each model."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        with urllib.request.urlopen(constants.ENDPOINT, timeout=HUB_TIMEOUT_S):
            return True
    except urllib.error.HTTPError:  # an answer
        return True
    except OSError:
        return False


@contextlib.contextmanager
def _suppress_output() -> Iterator[None]:
    """Suppress what libraries print and log while they load."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _one_line(error: BaseException) -> str:
    lines = str(error).split("\n")
    return " ".join(lines[0].split()) if lines[0].strip() else type(error).__name__
