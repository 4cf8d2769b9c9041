"""Make the system that `NAME=SOURCE[,option=value...]` names."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Literal, get_args

from ram_ray.detectors.registry import detector_classes
from ram_ray.evaluation.systems.bundle import BundleSystem
from ram_ray.evaluation.systems.detector import DetectorSystem
from ram_ray.evaluation.systems.matching import MATCHERS, MatchingSystem
from ram_ray.evaluation.systems.predictions import PredictionsSystem
from ram_ray.evaluation.systems.system import System
from ram_ray.evaluation.systems.zero_shot import ZeroShotSystem
from ram_ray.models.bundle_config import KIND
from ram_ray.models.dual_encoder import DUAL_ENCODER
from ram_ray.models.towers import PUBLISHED
from ram_ray.records import Json
from ram_ray.results import TrainedModel
from ram_ray.runtime.location import locate, uri_of
from ram_ray.runtime.storage import local_copy

Kind = Literal["bundle", "zero_shot", "matching", "detector", "predictions"]
_OPTIONS = ("kind", "revision", "vocabulary", "descriptions")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")
_PREDICTIONS = (".jsonl", ".jsonl.gz", ".jsonl.zst")


@dataclass(frozen=True)
class SystemSpec:
    """A system as it is named."""

    name: str
    source: str
    kind: Kind | None = None  # None: by its files
    revision: str | None = None
    vocabulary: str | None = None  # of a predictions file
    descriptions: str | None = None  # of classes, for label queries

    @classmethod
    def parse(cls, text: str) -> SystemSpec:
        """Read one value of `--systems` or `--compare`.

        Args:
            text: `NAME=SOURCE[,option=value...]`, or a source alone, whose last part is the name.

        Returns:
            The system.

        Raises:
            ValueError: if it has another form.
        """
        source, *parts = re.split(rf",(?=(?:{'|'.join(_OPTIONS)})=)", text)
        name, equals, rest = source.partition("=")
        if not equals or not _NAME.fullmatch(name):
            rest, name = source, re.sub(r"[^A-Za-z0-9_.+-]+", "-", source.rstrip("/").rpartition("/")[2]).strip("-.")
        options = dict(part.split("=", 1) for part in parts)
        if not rest or not _NAME.fullmatch(name) or len(options) < len(parts):
            raise ValueError(f"{text}: write NAME=MODEL[,option=value...]; options: {', '.join(_OPTIONS)}")
        if options.get("kind", "bundle") not in get_args(Kind):
            raise ValueError(f"{text}: kind={options['kind']}: use {', '.join(get_args(Kind))}")
        return cls(name, rest, **options)  # type: ignore[arg-type]


def make_system(spec: SystemSpec) -> System:
    """Make a system; no weights are loaded.

    Args:
        spec: the system, with absolute paths.

    Returns:
        The system.

    Raises:
        ValueError: if the source is none that is known.
    """
    kind = spec.kind or _find_kind(spec)
    if spec.vocabulary and kind != "predictions":
        raise ValueError(f"{spec.name}: vocabulary= is for a predictions file")
    if spec.descriptions and kind not in ("bundle", "zero_shot"):
        raise ValueError(f"{spec.name}: descriptions= is for bundles and dual encoders, which embed texts")
    if kind == "predictions":
        return PredictionsSystem(spec.name, spec.source, vocabulary=spec.vocabulary)
    if kind == "zero_shot":
        return ZeroShotSystem(spec.name, spec.source, revision=spec.revision, descriptions=spec.descriptions)
    if kind == "matching":
        return MatchingSystem(spec.name, spec.source, revision=spec.revision)
    if kind == "detector":
        model_type = _read_model_config(spec).get("model_type", "")
        if model_type not in detector_classes():
            raise ValueError(f"{spec.source}: a model of the type {model_type!r} is no detector that we know")
        return DetectorSystem(spec.name, spec.source, model_type=model_type, revision=spec.revision)
    return BundleSystem(spec.name, find_bundle(spec.source), revision=spec.revision, descriptions=spec.descriptions)


def find_bundle(source: str) -> str:
    """Find the bundle that a source names: itself, or the finetuned model of a run.

    Args:
        source: path, URI or Hugging Face id of a bundle, or the folder of a run.

    Returns:
        The bundle.

    Raises:
        ValueError: if the run has no finetuned model.
    """
    fs, path = locate(source)
    if not fs.isdir(f"{path}/models") or fs.exists(f"{path}/config.json"):
        return source
    manifests = fs.glob(f"{path}/models/finetune/*.json")
    if not manifests:
        raise ValueError(f"{source}: the run has no finetuned model; finish it, or name a bundle of its models/")
    newest = max(manifests, key=lambda name: str(fs.info(name).get("mtime") or fs.info(name).get("LastModified")))
    TrainedModel.model_validate_json(fs.cat_file(newest))
    return uri_of(fs, newest.removesuffix(".json"))


def _find_kind(spec: SystemSpec) -> Kind:
    if spec.source.lower().endswith(_PREDICTIONS):
        return "predictions"
    if os.path.isfile(spec.source):
        raise ValueError(f"{spec.source}: a file of predictions is JSONL and ends with .jsonl")
    tree = _read_model_config(spec)
    model_type = tree.get("model_type", tree.get("kind"))
    if tree.get("kind") == KIND:
        return "bundle"
    if model_type in (*PUBLISHED, DUAL_ENCODER):
        return "zero_shot"
    if model_type in MATCHERS:
        return "matching"
    if model_type in detector_classes():
        return "detector"
    raise ValueError(f"{spec.source}: a model of the type {model_type!r} cannot be scored")


def _read_model_config(spec: SystemSpec) -> Json:
    try:
        folder = local_copy(find_bundle(spec.source), revision=spec.revision, files=("config.json",))
        tree = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = " ".join(str(error).split())[:200]
        raise ValueError(f"{spec.source}: cannot be read as a model ({problem})") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{spec.source}: its config.json is no object")
    return tree
