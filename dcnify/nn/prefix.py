"""What becomes of class and register tokens when the image's tokens go through DCNv4."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class PrefixAttention(nn.Module):
    """Softmax attention of the prefix tokens over all tokens: O(N), not O(N²).

    The original layer's projections, with queries from the first ``prefix_tokens`` tokens alone.

    Args:
        channels: C, width of the tokens.
        heads: attention heads.
        prefix_tokens: P.
        query_width: width of all heads' queries together (also of the keys).
        value_width: width of all heads' values together.
        scale: factor on q·k before the softmax.

    Shape:
        (B, N, C) -> (B, P, C)
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        prefix_tokens: int,
        query_width: int,
        value_width: int,
        scale: float,
    ) -> None:
        super().__init__()
        self.heads, self.prefix_tokens, self.scale = heads, prefix_tokens, scale
        self.query = nn.Linear(channels, query_width)
        self.key = nn.Linear(channels, query_width)
        self.value = nn.Linear(channels, value_width)
        self.output = nn.Linear(value_width, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query = self._split(self.query(x[:, : self.prefix_tokens]))
        mixed = F.scaled_dot_product_attention(
            query, self._split(self.key(x)), self._split(self.value(x)), scale=self.scale
        )
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, prefix_tokens={self.prefix_tokens}, scale={self.scale:g}"
