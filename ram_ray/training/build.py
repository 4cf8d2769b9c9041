"""The job that trains the tagger: build the model, load its first weights, and save the bundle."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ram_ray.label_system import LabelSystem
from ram_ray.models.bundle import load_bundle, save_bundle
from ram_ray.models.image_encoder import ImageEncoder
from ram_ray.models.pretrained import fit_weights, load_pretrained, training_fields
from ram_ray.models.ram import RAM
from ram_ray.models.teacher import Teacher
from ram_ray.models.tokenizer import TextTokenizer
from ram_ray.settings.models import ModelConfig
from ram_ray.settings.training import TrainConfig
from ram_ray.training.step import TrainStep
from ram_ray.training.worker import Job


@dataclass(frozen=True)
class TaggerJob(Job):
    """Training of the tagger: pretrain, retrain or finetune."""

    model: ModelConfig = field(kw_only=True)
    label_system: str = ""  # URI
    teacher: str = ""  # URI or Hugging Face id
    teacher_revision: str | None = None
    start: str | None = None  # bundle to start from; None: as `config.start` says

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
        learned_queries = self.model.architecture == "tag2text"
        sizes = {} if learned_queries else {"label_width": teacher.embed_dim}
        if teacher.is_dual and not learned_queries:
            sizes["image_proj"] = teacher.embed_dim  # its image feature is distilled
        config = self.model.model_copy(
            update={  # known at run time: the encoder's normalisation, the teacher's width, the vocabulary's size
                **training_fields(self.model, image_size=self.config.image_size, window_size=self.config.window_size),
                "vocab_size": len(tokenizer),
                **sizes,
            }
        )
        names = LabelSystem.load(self.label_system).names
        queries = (
            torch.randn(len(names), config.label_width) * (config.init_std or config.label_width**-0.5)
            if learned_queries
            else teacher.label_embeddings(names, list(config.templates)).cpu()
        )
        model = RAM(config, queries)
        if self.start:
            load_weights(model, load_bundle(self.start).model.state_dict())
        elif self.config.start != "scratch" and (backbone := teacher.backbone()) is not None:
            load_weights(model, backbone)
        elif config.image_encoder.weights:
            load_pretrained(model.image_encoder)
        freeze_encoder(model.image_encoder, self.config)
        model.set_recompute(self.training.recompute)
        if not self.config.caption_loss:
            freeze_captioner(model)
        return TrainStep(
            model,
            teacher=teacher if self.config.distill_loss and teacher.is_dual else None,
            caption_start=tokenizer.prompt_length(config.prompt),
        )

    def save(self, step: TrainStep, folder: str) -> None:  # type: ignore[override]
        """Write a model bundle.

        Args:
            step: the trained step.
            folder: local folder of the bundle.
        """
        save_bundle(
            folder,
            step.model,
            labels=LabelSystem.load(self.label_system),
            tokenizer=TextTokenizer.load(self.feed.tokenizer),
            teacher=Teacher.from_pretrained(self.teacher, revision=self.teacher_revision),
            card={"stage": self.stage, "images": self.feed.table.num_rows, **self.config.model_dump(mode="json")},
        )


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
        encoder.requires_grad_(False)


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
