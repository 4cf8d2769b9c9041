"""What a head of the tagger is: label queries and image tokens in, a logit for each label out.

`recognition` is RAM's decoder; `ml_decoder` and `mkt` are heads of other papers, trained and served in its place. What
depends on labels alone (`queries`, `project_queries`) is computed once for a label set.

Letters: B batch, L image tokens, N labels, E width of text embeddings, D width of queries, C width of image tokens.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn


class TagHead(nn.Module):
    """A head; `recompute` says whether the backward pass computes its layers again.

    Args:
        width: D.
        hidden_width: values of a label and an image that a forward pass holds at once, for the size of micro-batches.
    """

    layers: nn.ModuleList  # transformer layers, whose linear maps inference may pack; empty: none

    def __init__(self, *, width: int, hidden_width: int) -> None:
        super().__init__()
        self.width, self.hidden_width = width, hidden_width
        self.recompute = False

    @abstractmethod
    def queries(self, label_embed: Tensor) -> Tensor:
        """Compute the queries of labels.

        Args:
            label_embed: text embeddings (N, E), the same for every image, or (B, N, E).

        Returns:
            (1, N, D) or (B, N, D).
        """

    @abstractmethod
    def project_queries(self, queries: Tensor) -> Tensor:
        """Compute what else depends on the queries alone.

        Args:
            queries: (1, N, D).

        Returns:
            (1, N, D).
        """

    @abstractmethod
    def forward(self, queries: Tensor, image_tokens: Tensor, *, projected_queries: Tensor | None = None) -> Tensor:
        """Score labels on encoded images.

        Args:
            queries: (1 or B, N, D).
            image_tokens: (B, 1 + L, C), the mean first.
            projected_queries: result of `project_queries` for these queries, if already computed.

        Returns:
            Logits (B, N).
        """

    @abstractmethod
    def attention(self, queries: Tensor, image_tokens: Tensor) -> Tensor:
        """Compute where a head finds labels.

        Args:
            queries: (1 or B, N, D), of all labels or of some.
            image_tokens: (B, 1 + L, C).

        Returns:
            (B, N, L), without the mean token; each row sums to 1.

        Raises:
            ValueError: if the head looks at no single positions.
        """
