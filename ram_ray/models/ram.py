"""RAM: one image encoder, a recognition decoder that asks it for tags, and a captioner guided by tags.

    pixels -> Swin -> image tokens (mean first) -> Linear ------+--> recognition decoder <- label queries -> logits
                                                                |
                          tags "a | b" -> tag encoder (cross) --+--> caption decoder -> caption

Label queries are frozen text embeddings, one a tag, so a model can be asked for tags that it was never
trained on. The two lowest layers of the tag encoder share cross-attention and feed-forward weights with the
recognition decoder (arXiv 2306.03514, section 3.2; sizes in `config.py`).

Letters: B batch, S pixels, L image tokens, N tags, D width, T text tokens, V vocabulary.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ram_ray.models.blocks import LAYER_NORM_EPS, Block, TokenEmbedding, initialise
from ram_ray.models.config import ModelConfig, TransformerConfig
from ram_ray.models.image_encoder import ImageEncoder
from ram_ray.models.losses import asymmetric_loss, caption_loss


class RecognitionDecoder(nn.Module):
    """Cross-attention of label queries to image tokens; no self-attention, so tags do not see one another."""

    def __init__(self, config: TransformerConfig, *, label_width: int, context_width: int) -> None:
        super().__init__()
        self.label_proj = nn.Linear(label_width, config.width)
        self.layers = nn.ModuleList(
            Block(
                config.width,
                heads=config.heads,
                ffn=config.ffn,
                dropout=config.dropout,
                self_attention=False,
                context_width=context_width,
            )
            for _ in range(config.layers)
        )
        self.fc = nn.Linear(config.width, 1)

    def queries(self, label_embed: Tensor) -> Tensor:
        """Text embeddings (N, E) to queries (1, N, D): the same for every image, so computed once a label set."""
        return F.relu(self.label_proj(label_embed)).unsqueeze(0)

    @torch.no_grad()
    def spread_queries(self, label_embed: Tensor) -> None:
        """Start `label_proj` so that before the ReLU the queries of these labels (N, E) are random and unlike.

        Text embeddings of names lie close together, in a small text encoder at a mean cosine of 0.9, and queries
        that are all alike make a slow start. Here they are centred and whitened first, then projected at random to
        a standard deviation of 2. It is a start only: the layer learns on, and takes any other label.
        """
        mean = label_embed.mean(0)
        _, strengths, axes = torch.linalg.svd(label_embed - mean, full_matrices=False)
        kept = strengths > 0.02 * strengths[0]
        if not kept.any():
            return
        axes, strengths = axes[kept], strengths[kept]
        whiten = axes.T @ (axes / strengths[:, None]) * (len(label_embed) / len(axes)) ** 0.5
        self.label_proj.weight.copy_(2 * torch.randn_like(self.label_proj.weight) @ whiten)
        self.label_proj.bias.copy_(-self.label_proj.weight @ mean)

    def forward(self, queries: Tensor, image_tokens: Tensor) -> Tensor:
        """Queries (1, N, D) and tokens (B, 1 + L, C) to logits (B, N)."""
        x = queries
        for layer in self.layers:
            x = layer(x, image_tokens)
        return self.fc(x).squeeze(-1)

    def attention(self, queries: Tensor, image_tokens: Tensor) -> Tensor:
        """Where the last layer's queries look: (B, N, L), the mean token left out, each row summing to one."""
        x = queries
        *lower, last = self.layers
        for layer in lower:
            x = layer(x, image_tokens)
        assert isinstance(last, Block) and last.cross is not None
        weights = last.cross.weights(x, image_tokens, heads=last.heads)[..., 1:]
        return weights / weights.sum(-1, keepdim=True)


class TagEncoder(nn.Module):
    """Image-tag interaction encoder: reads the tags as text while looking at the image."""

    def __init__(self, config: ModelConfig, shared: RecognitionDecoder) -> None:
        super().__init__()
        size = config.tag_encoder
        self.embedding = TokenEmbedding(
            config.vocab_size, size.width, max_positions=config.max_positions, dropout=size.dropout
        )
        self.layers = nn.ModuleList(
            Block(size.width, heads=size.heads, ffn=size.ffn, dropout=size.dropout, context_width=config.image_proj)
            for _ in range(size.layers)
        )
        for layer, lender in zip(self.layers, shared.layers, strict=False):
            layer.cross, layer.ffn = lender.cross, lender.ffn

    def forward(self, ids: Tensor, image_tokens: Tensor) -> Tensor:
        """Ids (B, T), zero is padding, and tokens (B, 1 + L, C) to (B, T, D)."""
        mask = (ids != 0)[:, None, None, :]
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x, image_tokens, mask=mask)
        return x


class CaptionDecoder(nn.Module):
    """Image-tag-text decoder: causal, looks at the tag encoder's output. Output words are tied to input words."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = config.caption_decoder
        self.embedding = TokenEmbedding(
            config.vocab_size, size.width, max_positions=config.max_positions, dropout=size.dropout
        )
        self.layers = nn.ModuleList(
            Block(
                size.width,
                heads=size.heads,
                ffn=size.ffn,
                dropout=size.dropout,
                context_width=config.tag_encoder.width,
            )
            for _ in range(size.layers)
        )
        self.transform = nn.Linear(size.width, size.width)
        self.norm = nn.LayerNorm(size.width, eps=LAYER_NORM_EPS)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(
        self, ids: Tensor, context: Tensor, context_mask: Tensor, *, caches: list[dict] | None = None, start: int = 0
    ) -> Tensor:
        """Ids (B, T) at positions start.. and context (B, T', D') with its mask (B, T') to logits (B, T, V)."""
        x = self.embedding(ids, start=start)
        for place, layer in enumerate(self.layers):
            x = layer(
                x,
                context,
                context_mask=context_mask[:, None, None, :],
                causal=ids.shape[1] > 1,
                cache=caches[place] if caches is not None else None,
            )
        x = self.norm(F.gelu(self.transform(x)))
        return F.linear(x, self.embedding.word.weight, self.bias)


class RAM(nn.Module):
    """The tagger. `label_embed` (N, E) is a buffer: frozen, and replaced to ask for other tags."""

    label_embed: Tensor

    def __init__(self, config: ModelConfig, label_embed: Tensor) -> None:
        super().__init__()
        if label_embed.ndim != 2 or label_embed.shape[1] != config.label_width:
            raise ValueError(
                f"label_embed has shape {tuple(label_embed.shape)}, the model wants (tags, {config.label_width})"
            )
        self.config = config
        self.image_proj = nn.Linear(config.swin.num_features, config.image_proj)
        self.recognition = RecognitionDecoder(
            config.recognition, label_width=config.label_width, context_width=config.image_proj
        )
        self.tag_encoder = TagEncoder(config, self.recognition)
        self.caption_decoder = CaptionDecoder(config)
        self.apply(partial(initialise, std=config.init_std))
        self.image_encoder = ImageEncoder(config.swin, image_size=config.image_size)  # timm initialises its own
        self.register_buffer("label_embed", label_embed.float())
        if config.init_std is None:
            self.recognition.spread_queries(self.label_embed)

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Normalised pixels (B, 3, S, S) to projected tokens (B, 1 + L, C)."""
        return self.image_proj(self.image_encoder(pixel_values))

    def logits(self, image_tokens: Tensor, label_embed: Tensor | None = None) -> Tensor:
        """Tokens (B, 1 + L, C) to logits (B, N), for other tags if their embeddings (N', E) are given."""
        embed = self.label_embed if label_embed is None else label_embed
        return self.recognition(self.recognition.queries(embed), image_tokens)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """One training step's losses, each a scalar: tag, and text / distill where the batch has their targets.

        Batch:
            pixel_values (B, 3, S, S) float, normalised
            targets (B, N), 1 where the tag is there
            caption_ids (B, T) and tag_ids (B, T'), optional: the caption and its own tags as text
            caption_start: tokens of the prompt, not learnt
            teacher (B, C), optional: the teacher's image feature of the same crop
        """
        tokens = self.encode(batch["pixel_values"])
        losses = {"tag": asymmetric_loss(self.logits(tokens), batch["targets"])}
        if "caption_ids" in batch:
            ids, tag_ids = batch["caption_ids"], batch["tag_ids"]
            context = self.tag_encoder(tag_ids, tokens)
            predicted = self.caption_decoder(ids, context, tag_ids != 0)
            targets = ids.masked_fill(ids == 0, -100)
            targets[:, : int(batch["caption_start"])] = -100
            losses["text"] = caption_loss(predicted, targets)
        if "teacher" in batch:
            losses["distill"] = F.l1_loss(tokens[:, 0].float(), batch["teacher"].float())
        return losses

    @torch.inference_mode()
    def generate(
        self, image_tokens: Tensor, tag_ids: Tensor, prompt_ids: Tensor, *, max_tokens: int, end: int
    ) -> Tensor:
        """Greedy captions: ids (B, T) after the prompt, zero after the end token.

        Args:
            image_tokens: (B, 1 + L, C).
            tag_ids: (B, T') tags as text.
            prompt_ids: (P,) the prompt with its first token.
            max_tokens: most tokens after the prompt.
            end: id of the end token.
        """
        context, mask = self.tag_encoder(tag_ids, image_tokens), tag_ids != 0
        caches: list[dict] = [{} for _ in self.caption_decoder.layers]
        step = prompt_ids.expand(len(tag_ids), -1)
        done = torch.zeros(len(tag_ids), dtype=torch.bool, device=tag_ids.device)
        words: list[Tensor] = []
        start = 0
        for _ in range(max_tokens):
            logits = self.caption_decoder(step, context, mask, caches=caches, start=start)[:, -1]
            start += step.shape[1]
            word = logits.argmax(-1).masked_fill(done, 0)
            done = done | (word == end)
            words.append(word.masked_fill(word == end, 0))
            if done.all():
                break
            step = word[:, None]
        return torch.stack(words, dim=1)
