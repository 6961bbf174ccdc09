"""A causal transformer over a user's events: predicts the next item at every position.

Based on SASRec (Kang and McAuley, "Self-attentive sequential recommendation", ICDM 2018) with later improvements:
full cross-entropy over all items instead of one negative (Klenitskiy and Vasilev, RecSys 2023), normalisation before
each layer, and a learned bias for the distance between two events (T5; HSTU, Zhai et al., ICML 2024) instead of
absolute positions, so that several users can share one row.

Shapes: B rows, L positions, D width, H heads, K = D / H.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.layers import Dropout


class Transformer(nn.Module):
    """Embedded events in, one hidden state for each position out."""

    has_static_steps = True

    def __init__(self, *, dim: int, num_blocks: int, num_heads: int, dropout: float, max_length: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(dim=dim, num_heads=num_heads, dropout=dropout, max_length=max_length) for _ in range(num_blocks)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x_BLD: Tensor, segments_BL: Tensor) -> Tensor:
        """Hidden states [B, L, D]; a position attends to itself and earlier positions of its own segment."""
        mask_BLL = causal_mask(segments_BL)
        for block in self.blocks:
            x_BLD = block(x_BLD, mask_BLL)
        hidden: Tensor = self.norm(x_BLD)
        return hidden

    def last(self, x_BLD: Tensor, lengths_B: Tensor) -> Tensor:
        """Hidden states [B, D] at the last event of each right-padded history; the last block computes only that."""
        # Padding comes after all events of a row, so one causal mask serves all rows.
        mask_1LL = causal_mask(lengths_B.new_zeros(1, x_BLD.shape[1]))
        for block in list(self.blocks)[:-1]:
            x_BLD = block(x_BLD, mask_1LL)
        x_BD = self.blocks[-1].last(x_BLD, mask_1LL, (lengths_B - 1).clamp_min(0))  # type: ignore[operator]
        hidden: Tensor = self.norm(x_BD)
        return hidden


class Block(nn.Module):
    """Attention, then a feed-forward layer four times as wide, each with a residual connection."""

    def __init__(self, *, dim: int, num_heads: int, dropout: float, max_length: int) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim {dim} is not a multiple of num_heads {num_heads}; choose one that is")
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)
        self.distance_bias = nn.Parameter(torch.zeros(num_heads, max_length))
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 4 * dim)
        self.narrow = nn.Linear(4 * dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x_BLD: Tensor, mask_BLL: Tensor) -> Tensor:
        """All positions [B, L, D]."""
        query, key, value = self._project(self.attention_norm(x_BLD))
        mixed_BHLK = attend(query, key, value, mask_BLL[:, None] + self._bias(x_BLD.shape[1]))
        x_BLD = x_BLD + self.dropout(self.output(mixed_BHLK.transpose(1, 2).flatten(2)))
        out: Tensor = x_BLD + self.dropout(self._feed_forward(x_BLD))
        return out

    def last(self, x_BLD: Tensor, mask_1LL: Tensor, position_B: Tensor) -> Tensor:
        """One position of each row only, [B, D]."""
        batch, length, dim = x_BLD.shape
        rows = torch.arange(batch, device=x_BLD.device)
        normal_BLD, weight = self.attention_norm(x_BLD), self.query_key_value.weight
        query = F.linear(normal_BLD[rows, position_B], weight[:dim]).view(batch, self.num_heads, 1, -1)
        key_value = F.linear(normal_BLD, weight[dim:]).view(batch, length, 2, self.num_heads, -1)
        key, value = key_value.permute(2, 0, 3, 1, 4)
        bias_BHL = (mask_1LL + self._bias(length))[:, position_B].transpose(0, 1)
        mixed_BHK = attend(query, key, value, bias_BHL[:, :, None])[:, :, 0]
        x_BD = x_BLD[rows, position_B] + self.output(mixed_BHK.flatten(1))
        out: Tensor = x_BD + self._feed_forward(x_BD)
        return out

    def _project(self, x_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch, length, dim = x_BLD.shape
        projected = self.query_key_value(x_BLD).view(batch, length, 3, self.num_heads, dim // self.num_heads)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        return query, key, value

    def _bias(self, length: int) -> Tensor:
        """Bias [H, L, L] by distance; Toeplitz, a strided view of the L distances."""
        if length > self.distance_bias.shape[1]:
            raise ValueError(f"a row of {length} events is longer than max_length {self.distance_bias.shape[1]}")
        # Times one makes the gradient contiguous, as DDP's buckets require.
        distances = (self.distance_bias * 1)[:, :length].flip(1)
        line = torch.cat([distances, distances.new_zeros(self.num_heads, length - 1)], 1)
        return line.unfold(1, length, 1).flip(1)

    def _feed_forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.narrow(F.relu_(self.widen(self.feed_forward_norm(x))))
        return hidden


def attend(query_BHQK: Tensor, key_BHLK: Tensor, value_BHLK: Tensor, bias: Tensor) -> Tensor:
    """Softmax attention with an additive bias [.., Q, L]; plain products on a CPU, whose fused kernel is slow."""
    if query_BHQK.device.type != "cpu":
        return F.scaled_dot_product_attention(query_BHQK, key_BHLK, value_BHLK, attn_mask=bias.to(query_BHQK.dtype))
    scores = (query_BHQK * (1 / math.sqrt(query_BHQK.shape[-1]))) @ key_BHLK.transpose(-2, -1)
    mixed: Tensor = torch.softmax(scores.add_(bias.to(scores.dtype)), -1) @ value_BHLK
    return mixed


def causal_mask(segments_BL: Tensor) -> Tensor:
    """Additive mask [B, L, L]: 0 where a position may attend, a large negative number elsewhere."""
    length = segments_BL.shape[1]
    same = segments_BL[:, :, None] == segments_BL[:, None, :]
    earlier = torch.ones(length, length, dtype=torch.bool, device=segments_BL.device).tril()
    return torch.zeros(same.shape, device=same.device).masked_fill_(~(same & earlier), -1e4)
