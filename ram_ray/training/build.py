"""The job that trains the tagger: build the model, load its first weights, and save the bundle.

A model that starts from a bundle has the bundle's sizes, label embeddings and text encoder; only image size and window
are those of the training.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ram_ray.label_system import LabelSystem
from ram_ray.models.bundle import TEXT_ENCODER, Bundle, load_bundle, save_bundle
from ram_ray.models.descriptions import embed_labels, read_descriptions
from ram_ray.models.image_encoder import ImageEncoder
from ram_ray.models.label_match import MATCH_FILE, read_kept
from ram_ray.models.pretrained import fit_weights, load_pretrained, training_fields
from ram_ray.models.ram import RAM
from ram_ray.models.recognition import RecognitionDecoder
from ram_ray.models.teacher import Teacher
from ram_ray.models.tokenizer import TextTokenizer
from ram_ray.runtime.input_file import InputFile
from ram_ray.runtime.storage import local_copy
from ram_ray.settings.models import ModelConfig
from ram_ray.settings.training import TrainConfig
from ram_ray.training.step import TrainStep
from ram_ray.training.worker import Job
from ram_ray.training.worker_sums import is_first_worker

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaggerJob(Job):
    """Training of the tagger: pretrain, retrain or finetune."""

    model: ModelConfig = field(kw_only=True)
    label_system: str = ""  # URI
    teacher: str = ""  # URI or Hugging Face id
    teacher_revision: str | None = None
    descriptions: InputFile | None = None  # of labels, for RAM++
    start: str | None = None  # URI of the run's model to start from, with its labels; None: as `config.start` says

    def build(self, device: torch.device) -> TrainStep:
        """Build the model with its losses, and load the weights that the stage's `start` names.

        Args:
            device: device of the teacher.

        Returns:
            The training step, on the CPU but for the teacher.

        Raises:
            ValueError: if the model to start from does not fit.
        """
        teacher = Teacher.from_pretrained(self.teacher, revision=self.teacher_revision, device=device)
        tokenizer = TextTokenizer.load(self.feed.tokenizer)
        bundle = load_bundle(self.start) if self.start else None
        model = self._build_new(teacher, len(tokenizer)) if bundle is None else self._build_from(bundle)
        distilled = self._distilled(teacher, model.config)
        if model.config.head == "mkt" and distilled is None and is_first_worker():
            why = f"{teacher.source} embeds texts alone" if self.config.distill_loss else "distill_loss is false"
            logger.info("%s: nothing is distilled to the head MKT: %s", self.stage, why)
        freeze_encoder(model.image_encoder, self.config)
        model.set_recompute(self.training.recompute)
        if isinstance(model.recognition, RecognitionDecoder):
            model.recognition.skipped_gradient = self.config.skipped_gradient
        if not self.config.caption_loss:
            freeze_captioner(model)
        keeper = bundle if self.config.old_labels == "keep" else None
        return TrainStep(
            model,
            teacher=distilled,
            aligner=self._aligner(teacher, bundle, device) if model.reweighs else None,
            caption_start=tokenizer.prompt_length(model.config.prompt),
            keeper=make_keeper(keeper, device) if keeper else None,
            kept_ids=find_kept(keeper) if keeper else (),
            kept_weight=self.config.kept_weight,
            tag_loss=self.config.tag_loss,
        )

    def _build_new(self, teacher: Teacher, vocab_size: int) -> RAM:
        learned_queries = self.model.architecture == "tag2text"
        sizes = {} if learned_queries else {"label_width": teacher.embed_dim}
        projected = self.model.image_proj is not None and not learned_queries
        if self.model.architecture == "ram_plus" or (teacher.is_dual and projected):
            sizes["image_proj"] = teacher.embed_dim  # its image feature is distilled, or weights descriptions
        config = self.model.model_copy(
            update={  # known at run time: the encoder's normalisation, the teacher's width, the vocabulary's size
                **training_fields(self.model, image_size=self.config.image_size, window_size=self.config.window_size),
                "vocab_size": vocab_size,
                **sizes,
            }
        )
        names = LabelSystem.load(self.label_system).names
        described = read_descriptions(self.descriptions.uri) if self.descriptions else None
        queries = (
            torch.randn(len(names), config.label_width) * (config.init_std or config.label_width**-0.5)
            if learned_queries
            else embed_labels(config, names, teacher, descriptions=described)
        )
        model = RAM(config, queries)
        if self.config.start != "scratch" and (backbone := teacher.backbone()) is not None:
            load_weights(model, backbone)
        elif config.image_encoder.weights:
            load_pretrained(model.image_encoder)
        return model

    def _build_from(self, bundle: Bundle) -> RAM:
        config = resize_model(bundle.model.config, self.config)
        model = RAM(config, bundle.model.label_embed.detach().clone())
        load_weights(model, bundle.model.state_dict())
        return model

    def _aligner(self, teacher: Teacher, bundle: Bundle | None, device: torch.device) -> Teacher:
        """The text encoder of the label embeddings, which embeds captions for RAM++'s alignment loss."""
        if bundle is None:
            return teacher
        if bundle.has_text_encoder:
            return bundle.teacher().to(device)
        raise ValueError(
            f"{self.stage} aligns images with captions, and the RAM++ that it starts from has no text encoder: import "
            "it with --text-encoder, the CLIP that made its label embeddings"
        )

    def _distilled(self, teacher: Teacher, config: ModelConfig) -> Teacher | None:
        """The teacher, if its image feature is distilled."""
        if not self.config.distill_loss or not teacher.is_dual:
            return None
        if config.image_proj != teacher.embed_dim:
            section = self.stage.partition("_")[0]
            raise ValueError(
                f"{section}.distill_loss: the encoder {teacher.source} has features of {teacher.embed_dim} values, and "
                f"the model has {config.image_proj or 'no projection (image_proj: null)'}; set {section}.distill_loss "
                "to false, or represent.clip to the CLIP that the model was trained with"
            )
        return teacher

    def save(self, step: TrainStep, folder: str) -> None:  # type: ignore[override]
        """Write a model bundle.

        Args:
            step: the trained step.
            folder: local folder of the bundle.
        """
        start = local_copy(self.start) if self.start else None
        save_bundle(
            folder,
            step.model,
            labels=LabelSystem.load(self.label_system),
            tokenizer=TextTokenizer.load(self.feed.tokenizer),
            teacher=self._text_encoder(start),
            card={"stage": self.stage, "images": self.feed.table.num_rows, **self.config.model_dump(mode="json")},
        )
        if start and (start / MATCH_FILE).is_file():
            shutil.copy(start / MATCH_FILE, folder)

    def _text_encoder(self, start: Path | None) -> Teacher | None:
        """The encoder that made the label embeddings: of the model to start from, else of the run."""
        if start is None:
            return Teacher.from_pretrained(self.teacher, revision=self.teacher_revision)
        return Teacher.from_pretrained(str(start / TEXT_ENCODER)) if (start / TEXT_ENCODER).is_dir() else None


def resize_model(config: ModelConfig, training: TrainConfig) -> ModelConfig:
    """Give the model of a bundle the image size and the window of a training.

    Args:
        config: of the bundle.
        training: settings of the training.

    Returns:
        The config; its normalisation stays.
    """
    window = {"window_size": training.window_size}
    named = config.image_encoder
    return config.model_copy(
        update={
            "image_size": training.image_size,
            "swin": config.swin.model_copy(update=window),
            "image_encoder": named.model_copy(update=window) if named.name else named,
        }
    )


def make_keeper(bundle: Bundle, device: torch.device) -> RAM:
    """Make the frozen model whose scores teach the labels that are kept.

    Args:
        bundle: that the training starts from; its captioner is removed.
        device: of the keeper.

    Returns:
        The model.
    """
    bundle.model.drop_captioner()
    return bundle.model.to(device)


def find_kept(bundle: Bundle) -> list[int]:
    """Find the labels that are kept: those of the bundle that the user gave.

    Args:
        bundle: that the training starts from.

    Returns:
        Ids of labels; all, if it descends from no given bundle.
    """
    file = bundle.folder / MATCH_FILE
    return read_kept(file.read_text()) if file.is_file() else list(range(len(bundle.labels)))


def freeze_captioner(model: RAM) -> None:
    """Freeze the weights that only the caption loss trains, because DDP waits for the gradient of every weight.

    Weights that the captioner shares with the recognition decoder stay trainable.

    Args:
        model: changed in place.
    """
    for name, parameter in model.named_parameters():  # a shared weight is listed under the recognition decoder's name
        if name.startswith(("tag_encoder.", "caption_decoder.")):
            parameter.requires_grad_(False)


def freeze_encoder(encoder: ImageEncoder, config: TrainConfig) -> None:
    """Freeze the weights of the image encoder that are not trained: unused ones, and all where `backbone_lr` is 0.

    Args:
        encoder: changed in place.
        config: settings of the training.
    """
    encoder.freeze_unused()
    if config.backbone_lr == 0:
        encoder.freeze()


def load_weights(model: RAM, state: dict[str, torch.Tensor]) -> None:
    """Load another model's weights; position embeddings are resized where window or resolution differ.

    Frozen label embeddings are not loaded, because the label system may have grown. Learned ones are loaded.

    Args:
        model: changed in place.
        state: the other model's tensors by name.

    Raises:
        ValueError: if the other model has other weights or shapes.
    """
    prefix, encoder = "image_encoder.backbone.", model.image_encoder
    skipped = set() if isinstance(model.label_embed, torch.nn.Parameter) else {"label_embed"}
    backbone = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    rest = {name: value for name, value in state.items() if not name.startswith(prefix) and name not in skipped}
    try:
        encoder.backbone.load_state_dict(fit_weights(encoder, backbone))
        missing, unexpected = model.load_state_dict(rest, strict=False)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the model to start from differs: {' '.join(str(error).split())}"[:500]) from None
    missing = [name for name in missing if not name.startswith(prefix) and name not in skipped]
    if rest and (missing or unexpected):
        raise ValueError(f"the model to start from differs: missing {missing[:3]}, unknown {unexpected[:3]}")
