"""ML-Decoder (arXiv 2111.12933): a decoder without self-attention whose few group queries score all labels.

K group queries see the image, in K cross-attentions however many labels there are. A group scores g = N / K labels,
rounded up, each with its own weights (group fully-connected, section 3.2 and figure 4): label n belongs to group
k = n // g, and with w_n, b_n the label's weights and h_k the group's result

    logit_n = w_n . h_k + b_n

The queries are random and stay so (section 3.2: trained ones are no better), or are trained. In the open-set form
(section 3.3) there is a query for each label, its projected text embedding, and one w and b for all labels.

As in the authors' code: image tokens are projected, with a ReLU; a layer norm before the cross-attention; ReLU in the
feed-forward. Other than there: the layers are those of `blocks`, which have no dropout inside the feed-forward; dropout
of the queries is drawn once for a batch; the mean token is among the image tokens; a group without a label is left out,
which changes no score. Left out are the query augmentations of the open-set form (section 3.3).

Letters: B batch, L image tokens, N labels, K groups, g labels of a group, E width of text embeddings, D width, C width
of image tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ram_ray.models.blocks import Block, run_layer
from ram_ray.models.head import TagHead
from ram_ray.settings.models import MLDecoderConfig


class GroupLinear(nn.Module):
    """The group fully-connected layer: each group scores its own labels.

    Args:
        num_labels: N.
        num_groups: K, at most N; the number of groups that have labels is `num_groups` of the layer.
        width: D.
    """

    def __init__(self, num_labels: int, num_groups: int, width: int) -> None:
        super().__init__()
        self.num_labels = num_labels
        self.size = -(-num_labels // min(num_groups, num_labels))  # g
        self.num_groups = -(-num_labels // self.size)
        self.weight = nn.Parameter(torch.empty(self.num_groups, width, self.size))
        self.bias = nn.Parameter(torch.zeros(num_labels))
        nn.init.xavier_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Score the labels.

        Args:
            x: (B, K, D).

        Returns:
            Logits (B, N).
        """
        # A matrix product for each group, for the same reason as in `recognition.PerTagLinear`.
        expanded = (x.unsqueeze(-2) @ self.weight).squeeze(-2)  # (B, K, g)
        return expanded.flatten(1)[:, : self.num_labels] + self.bias


class MLDecoder(TagHead):
    """The head.

    Args:
        config: sizes.
        num_labels: N, of the training.
        label_width: E.
        context_width: C.
    """

    def __init__(self, config: MLDecoderConfig, *, num_labels: int, label_width: int, context_width: int) -> None:
        super().__init__(width=config.width, hidden_width=config.ffn)
        width = config.width
        self.dropout = config.dropout
        self.context_proj = nn.Linear(context_width, width)
        self.label_proj: nn.Linear | None = None
        self.groups: GroupLinear | None = None
        if config.text_queries:
            self.label_proj = nn.Linear(label_width, width)
            self.fc = nn.Linear(width, 1)
        else:
            self.groups = GroupLinear(num_labels, config.groups, width)
            values = torch.empty(self.groups.num_groups, width)
            if config.learned_queries:
                self.group_queries = nn.Parameter(values)
            else:
                self.register_buffer("group_queries", values)
            nn.init.normal_(self.group_queries)
        self.query_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.layers = nn.ModuleList(
            Block(
                width,
                heads=config.heads,
                ffn=config.ffn,
                dropout=config.dropout,
                self_attention=False,
                context_width=width,
                norm_eps=config.norm_eps,
            )
            for _ in range(config.layers)
        )
        for layer in self.layers:
            assert isinstance(layer, Block)
            layer.ffn.activation = nn.ReLU()  # type: ignore[assignment]

    def queries(self, label_embed: Tensor) -> Tensor:
        """Compute the queries of labels: that of the label's group, or of its text embedding.

        Args:
            label_embed: text embeddings (N, E); without text queries only N counts, which is that of the training.

        Returns:
            (1, N, D); the labels of a group have equal queries.

        Raises:
            ValueError: if there are other labels than those of the training, and the head has no text queries.
        """
        queries = self.group_queries if self.label_proj is None else F.relu(self.label_proj(label_embed))
        queries = self.query_norm(queries + F.dropout(queries, self.dropout, self.training))
        if self.groups is not None:
            self._require_labels(len(label_embed))
            queries = queries.repeat_interleave(self.groups.size, dim=0)[: self.groups.num_labels]
        return queries.unsqueeze(0)

    def project_queries(self, queries: Tensor) -> Tensor:
        """Project the queries in the first layer's attention, see `TagHead.project_queries`."""
        first = self.layers[0]
        assert isinstance(first, Block) and first.cross is not None
        return first.cross.query(queries)

    def forward(self, queries: Tensor, image_tokens: Tensor, *, projected_queries: Tensor | None = None) -> Tensor:
        """Score labels, see `TagHead.forward`; each group is computed once."""
        x, projected = queries, projected_queries
        if self.groups is not None:
            self._require_labels(queries.shape[1])
            x = x[:, :: self.groups.size]
            projected = None if projected is None else projected[:, :: self.groups.size]
        context = self._context(image_tokens)
        for layer in self.layers:
            x = run_layer(layer, x, context, projected=projected, recompute=self.recompute)
            projected = None
        return self.fc(x).squeeze(-1) if self.groups is None else self.groups(x)

    def attention(self, queries: Tensor, image_tokens: Tensor) -> Tensor:
        """Compute the attention of the labels' groups in the last layer, see `TagHead.attention`."""
        x, context = queries, self._context(image_tokens)
        *lower, last = self.layers
        for layer in lower:
            x = layer(x, context)
        assert isinstance(last, Block) and last.cross is not None
        weights = last.cross.weights(x, context, heads=last.heads)[..., 1:]
        return weights / weights.sum(-1, keepdim=True)

    def _context(self, image_tokens: Tensor) -> Tensor:
        return F.relu(self.context_proj(image_tokens))

    def _require_labels(self, num_labels: int) -> None:
        assert self.groups is not None
        if num_labels != self.groups.num_labels:
            raise ValueError(
                f"an ML-Decoder with group queries scores the {self.groups.num_labels:,} labels of its training, not "
                f"{num_labels:,}; train one with model.ml_decoder.text_queries for others"
            )
