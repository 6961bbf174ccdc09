"""Layers that several networks use: a fused linear cross-entropy and a dropout that is cheap on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GPU_CHUNK_TOKENS, MIN_GPU_CHUNK_TOKENS = 16_384, 1024
GPU_CHUNK_LOGITS = 2**28
"""On a GPU small chunks leave it idle between kernels: 16,384 tokens took a half to a fifth of the time of 1,024 with
3,417 and 20,000 items on an H100; with more items chunks are smaller, for memory: half a gigabyte in bf16."""
CPU_CHUNK_TOKENS, MIN_CHUNK_TOKENS = 256, 128
CHUNK_LOGITS = 3_500_000
"""Chunks are smaller on a CPU, and smaller yet with many items, to keep the logits in cache: up to twice as fast."""


def linear_cross_entropy(
    hidden_TD: Tensor,
    weight_VD: Tensor,
    targets_T: Tensor,
    bias_V: Tensor | None = None,
    *,
    importance_T: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of `hidden @ weight.T` against `targets`, without materialising the [T, V] logits.

    The gradients are computed in the forward pass, chunk by chunk, while the logits are in cache. Under autocast
    the products run in its dtype. The targets must be in 0 .. V - 1; a constant `bias_V` is added to every logit but
    the target's own, for sampled candidates; `importance_T` multiplies the loss of each token. Follows "Cut your
    losses in large-vocabulary language models" (Wijmans et al., 2025) and Liger Kernel (Hsu et al., 2024).
    """
    if not (torch.is_grad_enabled() and (hidden_TD.requires_grad or weight_VD.requires_grad)):
        logits = _logits(hidden_TD, weight_VD, targets_T, bias_V).float()
        if importance_T is None:
            return F.cross_entropy(logits, targets_T)
        return (importance_T * F.cross_entropy(logits, targets_T, reduction="none")).mean()
    inputs = hidden_TD, weight_VD, targets_T, bias_V, importance_T
    loss: Tensor = _LinearCrossEntropy.apply(*inputs)  # type: ignore[no-untyped-call]
    return loss


def chunk_tokens(num_items: int, device: str) -> int:
    """How many tokens have their logits in memory at one time."""
    if device == "cpu":
        smallest, largest, logits = MIN_CHUNK_TOKENS, CPU_CHUNK_TOKENS, CHUNK_LOGITS
    else:
        smallest, largest, logits = MIN_GPU_CHUNK_TOKENS, GPU_CHUNK_TOKENS, GPU_CHUNK_LOGITS
    fitting: int = 2 ** (max(logits // num_items, 1).bit_length() - 1)
    return min(max(fitting, smallest), largest)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_TD: Tensor,
        weight_VD: Tensor,
        targets_T: Tensor,
        bias_V: Tensor | None,
        importance_T: Tensor | None,
    ) -> Tensor:
        device = hidden_TD.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_TD.dtype
        with torch.autocast(device, enabled=False):
            hidden, weight = hidden_TD.detach().to(dtype), weight_VD.detach().to(dtype)
            grad_hidden = torch.empty_like(hidden)
            grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
            loss = torch.zeros((), dtype=torch.float32, device=weight.device)
            num_tokens, size = len(hidden), chunk_tokens(len(weight), device)
            for start in range(0, num_tokens, size):
                chunk = hidden[start : start + size]
                target = targets_T[start : start + size]
                probability = torch.softmax(_logits(chunk, weight, target, bias_V), dim=1)
                rows = torch.arange(len(target), device=target.device)
                right = probability[rows, target]
                log_right = right.float().clamp_min(1e-30).log()
                # scatter_ would copy the whole tensor twice.
                probability[rows, target] = right - 1
                torch.mm(probability, weight, out=grad_hidden[start : start + size])
                if importance_T is not None:
                    importance = importance_T[start : start + size]
                    log_right = log_right * importance
                    # On tensors of width D, not V.
                    grad_hidden[start : start + size] *= importance[:, None].to(dtype)
                    chunk = chunk * importance[:, None].to(dtype)
                loss -= log_right.sum()
                grad_weight += probability.T @ chunk
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.scale, ctx.dtypes = 1 / num_tokens, (hidden_TD.dtype, weight_VD.dtype)
        return loss / num_tokens

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grad_outputs[0] * ctx.scale
        hidden_dtype, weight_dtype = ctx.dtypes
        return grad_hidden.to(hidden_dtype) * scale, (grad_weight * scale).to(weight_dtype), None, None, None


def _logits(hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None) -> Tensor:
    logits = hidden @ weight.T
    if bias is not None:
        logits += bias.to(logits.dtype)
        logits[torch.arange(len(target), device=target.device), target] -= bias.to(logits.dtype)[target]
    return logits


class Dropout(nn.Module):
    """Dropout whose masks are cut from one pool of random numbers at random places (CPU), or torch's own (GPU).

    On a CPU, drawing a full mask costs more than the matrix products of a small network. The pool is redrawn once it is
    used up, so masks repeat only in part and only within a few steps.
    """

    POOL_MASKS = 8
    LEVELS = 2**16
    """Probabilities are rounded to this many levels: one random integer gives four numbers, three times as fast."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self._pool = torch.empty(0)
        self._used = 0

    def forward(self, x: Tensor) -> Tensor:
        """Zero a share of x, any shape, and scale the rest, in training."""
        if not self.training or self.probability == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.probability)
        num = x.numel()
        if len(self._pool) < 2 * num or self._used > self.POOL_MASKS * num or self._pool.dtype != x.dtype:
            self._pool = self._drawn(2 * num, x.dtype)
            self._used = 0
        begin = int(torch.randint(len(self._pool) - num + 1, ()))
        self._used += num
        return x * self._pool[begin : begin + num].view(x.shape)

    def _drawn(self, num: int, dtype: torch.dtype) -> Tensor:
        """`num` factors: 0, or 1 / (1 - probability)."""
        zeros = min(round(self.probability * self.LEVELS), self.LEVELS - 1)
        draws = torch.empty(-(-num // 4), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
        kept = draws.view(torch.int16)[:num] >= zeros - self.LEVELS // 2
        return kept.to(dtype).mul_(self.LEVELS / (self.LEVELS - zeros))
