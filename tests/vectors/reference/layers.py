"""Section 6: layers that `nn.Sequential` lacks, under the names that PyTorch gives their parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from reference import draws


class Dropout(nn.Module):
    """Dropout with the protocol's mask; `step` is set before each batch."""

    def __init__(self, p: float, seed: int, number: int) -> None:
        super().__init__()
        self.p, self.seed, self.number, self.step = p, seed, number, 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = draws.dropout_kept(self.seed, self.number, self.step, self.p, x.numel())
        # Rounded to f32 first: the factor is part of the definition, in float64 too.
        scale = torch.tensor(1.0 / (1.0 - self.p), dtype=torch.float32).to(x.dtype)
        return torch.where(torch.from_numpy(kept).view(x.shape), x * scale, 0)


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
        masks = [Dropout(p, seed, number + (i << 16)) for i in range(4)]
        self.attention_dropout, self.dropout1, self.dropout, self.dropout2 = masks  # type: ignore[assignment]
        self.p = p

    def _sa_block(  # type: ignore[override]
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
        return self.dropout1(self.self_attn.out_proj(context))

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

    def __init__(self, modules: list[nn.Module], padded: list[Padded]) -> None:
        super().__init__(*modules)
        # Not registered as modules again.
        self.padded = [lambda layer=layer: layer for layer in padded]

    def forward(self, x: Tensor) -> Tensor:
        if self.padded:
            embedding = self[0]
            assert isinstance(embedding, Embedding)
            padding = x == embedding.padding_idx
            # A row of nothing but padding counts as having none.
            padding &= ~padding.all(dim=1, keepdim=True)
            for layer in self.padded:
                layer().padding = padding
        y: Tensor = super().forward(x)
        return y
