"""MKT (arXiv 2207.01887): labels scored by products of their text embeddings with an image's global and local features.

    s_n = z_n . G(t_0) + mean over the K best positions i of z_n . H(t_i)

z_n is the text embedding of label n, t_0 the mean token of the image, t_i that of position i. The global head G is one
linear layer, the local head H two (the two-stream module). The paper trains with a ranking loss (`tag_loss.kind:
ranking`) and keeps G(t_0) close to the image feature of a dual encoder, CLIP (`distill_loss`), so that labels that were
not trained can be scored.

What is followed: the two-stream module with the mean over the K = 16 best positions, fixed label embeddings, the
ranking loss, the distillation (L1, weight 1). Where the model projects image tokens to the width of the embeddings
(`model.image_proj`, as with any dual encoder), that projection is G, and its mean token is what is distilled.

What is left out: prompt tuning of the text encoder, because label embeddings come from an encoder that is not a part of
the tagger; a trained linear map of them can stand for it (`tune_labels`). The authors' code divides the two scores by
their norms over all labels, so that a score depends on the other labels; here it does not. The paper's image encoder is
CLIP's ViT with its class token; here it is that of the run, with its mean token. Without a dual encoder nothing is
distilled, and what is transferred is the geometry of the label embeddings alone.

Letters: B batch, L image tokens, N labels, E width of text embeddings, C width of image tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ram_ray.models.head import TagHead
from ram_ray.settings.models import MKTConfig


class MKTHead(TagHead):
    """The head.

    Args:
        config: sizes.
        label_width: E.
        context_width: C.
    """

    def __init__(self, config: MKTConfig, *, label_width: int, context_width: int) -> None:
        super().__init__(width=label_width, hidden_width=config.hidden or label_width)
        self.top_k = config.top_k
        is_projected = context_width == label_width
        self.global_head = nn.Identity() if is_projected else nn.Linear(context_width, label_width)
        self.local_hidden = nn.Linear(context_width, self.hidden_width)
        self.local_head = nn.Linear(self.hidden_width, label_width)
        self.label_map = nn.Linear(label_width, label_width, bias=False) if config.tune_labels else None
        self.layers = nn.ModuleList()

    def start_as_identity(self) -> None:
        """Set the map of the label embeddings, if there is one, so that it changes nothing."""
        if self.label_map is not None:
            nn.init.zeros_(self.label_map.weight)

    def queries(self, label_embed: Tensor) -> Tensor:
        """Compute the queries of labels: their unit text embeddings, after the trained map if there is one.

        Args:
            label_embed: text embeddings (N, E).

        Returns:
            (1, N, E).
        """
        unit = F.normalize(label_embed, dim=-1)
        if self.label_map is not None:
            unit = F.normalize(unit + self.label_map(unit), dim=-1)
        return unit.unsqueeze(0)

    def project_queries(self, queries: Tensor) -> Tensor:
        """Return the queries: nothing else depends on them alone."""
        return queries

    def forward(self, queries: Tensor, image_tokens: Tensor, *, projected_queries: Tensor | None = None) -> Tensor:
        """Score labels, see `TagHead.forward`; with fewer than K positions the mean is over all."""
        whole = queries @ self.global_head(image_tokens[:, 0]).unsqueeze(-1)
        # Sorted and cut, not `topk`: a traced graph then takes any number of positions.
        best = self._local_scores(queries, image_tokens).sort(dim=-1, descending=True).values[..., : self.top_k]
        return whole.squeeze(-1) + best.mean(-1)

    def attention(self, queries: Tensor, image_tokens: Tensor) -> Tensor:
        """Compute a softmax of the local scores over positions, see `TagHead.attention`."""
        return self._local_scores(queries, image_tokens).softmax(-1)

    def _local_scores(self, queries: Tensor, image_tokens: Tensor) -> Tensor:
        """Scores (B, N, L) of positions."""
        features = self.local_head(torch.tanh(self.local_hidden(image_tokens[:, 1:])))
        return queries @ features.transpose(-1, -2)
