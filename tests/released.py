"""Checkpoints in the released models' form, made by the suite itself: random weights under the reference's names, with
its JSON files and lists. Sizes are arguments, so that nothing can be fitted to one."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ram_ray.models.ram import RAM
from ram_ray.settings.models import ModelConfig, SwinConfig, TransformerConfig

WORDS = ("[PAD]", *(f"[unused{i}]" for i in range(4)), "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghijklmnopqrstuvwxyz|"
_NAMES = (  # our part of a name: the reference's
    ("image_encoder.backbone.", "visual_encoder."),
    ("recognition.label_proj.", "wordvec_proj."),
    ("recognition.fc.", "fc."),
    ("recognition.layers.", "tagging_head.encoder.layer."),
    ("tag_encoder.layers.", "tag_encoder.encoder.layer."),
    ("tag_encoder.embedding.", "tag_encoder.embeddings."),
    ("caption_decoder.layers.", "text_decoder.bert.encoder.layer."),
    ("caption_decoder.embedding.", "text_decoder.bert.embeddings."),
    ("caption_decoder.transform.", "text_decoder.cls.predictions.transform.dense."),
    ("caption_decoder.norm.", "text_decoder.cls.predictions.transform.LayerNorm."),
    ("caption_decoder.bias", "text_decoder.cls.predictions.bias"),
    ("embeddings.word.", "embeddings.word_embeddings."),
    ("embeddings.position.", "embeddings.position_embeddings."),
    ("embeddings.norm.", "embeddings.LayerNorm."),
    (".ffn.up.", ".intermediate.dense."),
    (".ffn.down.", ".output.dense."),
    (".ffn.norm.", ".output.LayerNorm."),
)


def model(architecture: str, *, seed: int = 0, num_tags: int = 7, descriptions: int = 3, **sizes) -> RAM:
    """A small model of one of the three kinds, with weights that make logits differ."""
    stack = TransformerConfig(width=24, layers=2, heads=3, ffn=40, dropout=0.1)
    vocabulary = len(WORDS) + 2 * len(LETTERS) + 2
    config = ModelConfig(
        **{
            "architecture": architecture,
            "image_size": 48,
            "swin": SwinConfig(window_size=3, embed_dim=8, depths=(1, 2, 2), num_heads=(1, 2, 2)),
            "image_proj": 20,
            "label_width": 24 if architecture == "tag2text" else 20,
            "recognition": stack,
            "tag_encoder": stack.model_copy(update={"heads": 4, "layers": 3}),
            "caption_decoder": stack.model_copy(update={"heads": 4, "layers": 3}),
            "vocab_size": vocabulary,
            "max_positions": 33,
            "captions": architecture != "ram_plus",
            "descriptions": descriptions if architecture == "ram_plus" else 1,
            "label_proj": architecture != "tag2text",
            "mask_tag_padding": False,
            **sizes,
        }
    )
    torch.manual_seed(seed)
    shape = (config.descriptions,) if architecture == "ram_plus" else ()
    made = RAM(config, torch.randn(num_tags, *shape, config.label_width))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(4.0)
            elif parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def state(made: RAM) -> dict[str, torch.Tensor]:
    """The model's tensors under the reference's names, with what the reference keeps beside them."""
    tensors = {}
    for name, value in made.state_dict().items():
        here = name
        for ours, theirs in _NAMES:
            here = here.replace(ours, theirs)
        for kind, place in (("attention", "attention"), ("cross", "crossattention")):
            for part in ("query", "key", "value"):
                here = here.replace(f".{kind}.{part}.", f".{place}.self.{part}.")
            here = here.replace(f".{kind}.out.", f".{place}.output.dense.")
            here = here.replace(f".{kind}.norm.", f".{place}.output.LayerNorm.")
        if ".downsample." in here:
            stage = int(here.split(".")[2])
            here = here.replace(f"layers.{stage}.", f"layers.{stage - 1}.")
        tensors[here] = value.clone()
    if made.config.captions:
        tensors["text_decoder.cls.predictions.decoder.weight"] = tensors[
            "text_decoder.bert.embeddings.word_embeddings.weight"
        ]
        tensors["text_decoder.cls.predictions.decoder.bias"] = tensors["text_decoder.cls.predictions.bias"]
    if made.config.architecture == "tag2text":
        tensors["fc.W"], tensors["fc.b"] = tensors.pop("fc.weight")[None], tensors.pop("fc.bias")[None]
        tensors["label_embed.weight"] = tensors.pop("label_embed")
    elif made.config.architecture == "ram_plus":
        tensors["label_embed"] = tensors["label_embed"].flatten(0, 1)
    tensors["tag_encoder.embeddings.position_ids"] = torch.arange(33)[None]
    tensors["visual_encoder.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(9, 9, dtype=torch.long)
    return tensors


def write(folder: Path, made: RAM, **beside) -> Path:
    """A folder with checkpoint.pth, configs/, data/ and tokenizer/, as the reference lays them out."""
    config = made.config
    (folder / "configs" / "swin").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "tokenizer").mkdir()
    torch.save({"model": state(made), **beside}, folder / "checkpoint.pth")
    swin = {"ckpt": "", "image_res": config.image_size, "vision_width": config.swin.num_features}
    swin |= config.swin.model_dump(include={"window_size", "embed_dim", "depths", "num_heads"})
    (folder / "configs" / "swin" / "config_swinB_384.json").write_text(json.dumps(swin))
    for file, stack in (("q2l_config.json", config.recognition), ("med_config.json", config.tag_encoder)):
        (folder / "configs" / file).write_text(json.dumps(_bert(stack, config)))
    num_tags = len(made.label_embed)
    names = [f"tag {i}" for i in range(num_tags)]
    known = "tag2text_ori_tag_list.txt" if config.architecture == "tag2text" else "ram_tag_list.txt"
    (folder / "data" / known).write_text("\n".join(names) + "\n")
    if config.architecture != "tag2text":
        (folder / "data" / "ram_tag_list_threshold.txt").write_text("".join(f"0.{40 + i}\n" for i in range(num_tags)))
        (folder / "data" / "ram_tag_list_chinese.txt").write_text("".join(f"标签{i} \n" for i in range(num_tags)))
    (folder / "tokenizer" / "vocab.txt").write_text(
        "\n".join([*WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]) + "\n"
    )
    return folder


def _bert(stack: TransformerConfig, config: ModelConfig) -> dict:
    return {
        "hidden_size": stack.width,
        "num_hidden_layers": stack.layers,
        "num_attention_heads": stack.heads,
        "intermediate_size": stack.ffn,
        "layer_norm_eps": stack.norm_eps,
        "hidden_dropout_prob": stack.dropout,
        "hidden_act": "gelu",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_positions,
        "encoder_width": 768,
    }
