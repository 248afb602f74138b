"""The protocol's layers that `nn.Sequential` lacks, their parameters named as PyTorch's are.

The sections named in this package are those of `docs/protocol.md`; this is section 6.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from outboard_worker import draws


def dropout_kept(
    seed: int, number: int, step: int, p: float, elements: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Which elements survive dropout (section 7)."""
    key = int(draws.mix(seed, draws.stream(draws.DROPOUT, number), step)[0])

    def signed(word: int) -> int:
        """A word of 32 bits as PyTorch's integers have it; they wrap as the protocol's do."""
        return (word & 0xFFFFFFFF ^ 0x80000000) - 0x80000000

    def shifted(words: Tensor, by: int) -> Tensor:
        return words >> by & (1 << 32 - by) - 1

    x = torch.arange(elements, dtype=torch.int64, device=device).to(torch.int32)
    x = x * signed(0x9E3779B9) + signed(key)
    x = (x ^ shifted(x, 16)) * signed(0x7FEB352D) + signed(key >> 32)
    x = (x ^ shifted(x, 15)) * signed(0x846CA68B)
    x = x ^ shifted(x, 16)
    least = min(draws.half_away(p * 2.0**32), 2**32 - 1)
    # Turning the top bit round makes an unsigned comparison of a signed one.
    return (x ^ signed(0x80000000)) >= signed(least ^ 0x80000000)


class Dropout(nn.Module):
    """Dropout with the protocol's mask; `step` is set before each batch."""

    def __init__(self, p: float, seed: int, number: int) -> None:
        super().__init__()
        self.p, self.seed, self.number, self.step = p, seed, number, 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = dropout_kept(self.seed, self.number, self.step, self.p, x.numel(), x.device)
        # Rounded to f32 first: the factor is part of the definition, in float64 too.
        scale = float(torch.tensor(1.0 / (1.0 - self.p), dtype=torch.float32))
        return torch.where(kept.view(x.shape), x * scale, 0)


class Padded(nn.Module):
    """A layer that leaves padding out; `padding` is set before each batch, true where it is."""

    padding: Tensor | None = None


class Embedding(nn.Embedding):
    """An embedding of whole numbers that come as floats."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.long())


class PositionalEmbedding(nn.Module):
    """A trained vector for each position, added to its features."""

    def __init__(self, positions: int, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(positions, features))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


class Residual(nn.Module):
    """What a body makes of its input, and the input."""

    def __init__(self, body: nn.Sequential) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y


class TransformerEncoder(nn.TransformerEncoderLayer, Padded):
    """PyTorch's block; where it drops at random, the same with the protocol's masks."""

    def __init__(
        self,
        features: int,
        heads: int,
        ff: int,
        p: float,
        activation: str,
        norm_first: bool,
        seed: int,
        number: int,
    ) -> None:
        super().__init__(
            features, heads, ff, p, activation, batch_first=True, norm_first=norm_first
        )
        # In an order of the protocol: probabilities, attention, hidden features, feed-forward.
        masks: Any = [Dropout(p, seed, number + (i << 16)) for i in range(4)]
        self.attention_dropout, self.dropout1, self.dropout, self.dropout2 = masks
        self.p = p

    def _sa_block(
        self,
        x: Tensor,
        attn_mask: Tensor | None,
        key_padding_mask: Tensor | None,
        is_causal: bool = False,
    ) -> Tensor:
        if not self.training or self.p == 0:
            return super()._sa_block(x, attn_mask, key_padding_mask, is_causal)
        rows, positions, features = x.shape
        heads = self.self_attn.num_heads
        projected = nn.functional.linear(
            x, self.self_attn.in_proj_weight, self.self_attn.in_proj_bias
        )
        shape = (rows, positions, heads, features // heads)
        q, k, v = (part.view(shape).transpose(1, 2) for part in projected.chunk(3, dim=-1))
        scores = q @ k.transpose(2, 3) / math.sqrt(features // heads)
        if key_padding_mask is not None:
            scores = scores + key_padding_mask[:, None, None, :]
        probabilities = self.attention_dropout(scores.softmax(dim=-1))
        context = (probabilities @ v).transpose(1, 2).reshape(rows, positions, features)
        added: Tensor = self.dropout1(self.self_attn.out_proj(context))
        return added

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, src_key_padding_mask=self.padding)


class Lstm(nn.LSTM):
    """PyTorch's layer; gives the states alone."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        states: Tensor = super().forward(x)[0]
        return states


class Gru(nn.GRU):
    """PyTorch's layer; gives the states alone."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        states: Tensor = super().forward(x)[0]
        return states


class MeanPool(Padded):
    """The mean over positions that are no padding."""

    def forward(self, x: Tensor) -> Tensor:
        if self.padding is None:
            return x.mean(dim=1)
        kept = (~self.padding).to(x.dtype).unsqueeze(-1)
        return (x * kept).sum(dim=1) / kept.sum(dim=1)


class LastPool(Padded):
    """The last position that is no padding."""

    def forward(self, x: Tensor) -> Tensor:
        if self.padding is None:
            return x[:, -1]
        positions = torch.arange(x.shape[1], device=x.device)
        last = torch.where(self.padding, -1, positions).amax(dim=1)
        return x[torch.arange(len(x), device=x.device), last]


class Model(nn.Sequential):
    """Layers one after another; tells those that ask where the padding is."""

    # Numbers that a row becomes in the end, and in all layers together.
    outputs = 0
    width = 0

    def __init__(self, modules: list[nn.Module], padded: list[Padded]) -> None:
        super().__init__(*modules)
        self.padded = padded

    def forward(self, x: Tensor) -> Tensor:
        if self.padded:
            embedding = self[0]
            assert isinstance(embedding, Embedding)
            padding = torch.eq(x, embedding.padding_idx or 0)
            # A row of nothing but padding counts as having none.
            padding = padding & ~padding.all(dim=1, keepdim=True)
            for layer in self.padded:
                layer.padding = padding
        y: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return y
