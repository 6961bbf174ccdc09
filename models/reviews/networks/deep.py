"""A deep network of characters and pairs of characters, which also learns to tell replaced characters.

Shapes: B texts, L characters of them, D width, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.prepared import Prepared
from models.reviews.config import Config
from models.reviews.data import Reviews, collate, dataset
from models.reviews.schema import Schema
from models.sampling import evenly

CHARACTER_BUCKETS, PAIR_BUCKETS = 1 << 13, 1 << 15
PRIMES = (2_654_435_761, 2_246_822_519, 3_266_489_917)
WIDTHS = (1, 3, 5)
"""Characters that convolutions see."""
CONTEXTS, CONTINUATIONS = 1 << 15, 8
"""Pairs of characters, hashed, and how many characters that followed each are kept."""
REPLACED = 0.15
MAX_TEXTS = 50_000
BLOCK = 512


class Deep(nn.Module):
    """Embeddings of characters and pairs, an encoder, and what it says at its largest and on average."""

    continuations: Tensor

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.pretrain_epochs = config.pretrain_epochs
        # Two hashes of a character into one table: few pairs of characters share both.
        self.characters = nn.Embedding(CHARACTER_BUCKETS, config.dim, sparse=True)
        self.pairs = nn.Embedding(PAIR_BUCKETS, config.dim, sparse=True)
        for table in (self.characters, self.pairs):
            nn.init.normal_(table.weight, std=0.1)
        self.encoder = encoder_of(config)
        self.dropout = nn.Dropout(config.dropout)
        self.attention = nn.Linear(config.dim, 1)
        self.head = nn.Linear(2 * config.dim, len(schema.classes))
        # The first logits are 0: what is learned adds to those of a wide network.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.is_replaced = nn.Linear(config.dim, 1).requires_grad_(bool(config.pretrain_epochs))
        size = CONTEXTS if config.pretrain_epochs else 1
        self.register_buffer("continuations", torch.zeros(size, CONTINUATIONS, dtype=torch.int32))

    def forward(self, batch: Reviews) -> Tensor:
        """Logits [B, K]."""
        return self._logits(batch.characters)

    def _logits(self, characters_BL: Tensor) -> Tensor:
        mask = characters_BL > 0
        states = self.states(characters_BL).float()
        largest = states.masked_fill(~mask[..., None], -1e4).amax(1)
        share = self.attention(states).float().masked_fill(~mask[..., None], -1e4).softmax(1)
        logits: Tensor = self.head(self.dropout(torch.cat([largest, (share * states).sum(1)], 1)))
        return logits.float()

    def states(self, characters_BL: Tensor) -> Tensor:
        """What the encoder makes of each character [B, L, D]."""
        first, second = (characters_BL * prime % (1 << 32) % CHARACTER_BUCKETS for prime in PRIMES[:2])
        following = F.pad(characters_BL[:, 1:], (0, 1))
        pairs = (characters_BL * PRIMES[2] + following * PRIMES[0]) % (1 << 32) % PAIR_BUCKETS
        embedded = self.characters(first) + self.characters(second) + self.pairs(pairs)
        states: Tensor = self.encoder(self.dropout(embedded), characters_BL > 0)
        return states

    def pretraining_loss(self, batch: Reviews) -> Tensor:
        """Log loss of telling which characters were replaced by ones that followed the same two elsewhere.

        Replaced token detection (Clark et al., ELECTRA, 2020), with a table of trigrams as the generator; where that
        has nothing else, a character that the batch has elsewhere.
        """
        characters = batch.characters
        context = F.pad(characters[:, :-1], (1, 0)) * PRIMES[0] + F.pad(characters[:, :-2], (2, 0)) * PRIMES[1]
        drawn = torch.randint(CONTINUATIONS, characters.shape, device=characters.device)
        plausible = self.continuations[context % (1 << 32) % len(self.continuations), drawn].long()
        is_text = characters > 0
        seen = characters[is_text]
        anywhere = seen[torch.randint(len(seen), characters.shape, device=characters.device)]
        plausible = torch.where((plausible == 0) | (plausible == characters), anywhere, plausible)
        chosen = is_text & (torch.rand(characters.shape, device=characters.device) < REPLACED)
        corrupted = torch.where(chosen, plausible, characters)
        logits = self.is_replaced(self.states(corrupted)).squeeze(2).float()
        target = (corrupted != characters).float()
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return losses[is_text].mean() + zero_loss(self.attention) + zero_loss(self.head)

    def fit(self, data: Prepared, schema: Schema, config: Config) -> None:
        """Keep characters that follow each pair in the texts of pretraining, for `pretraining_loss`."""
        if not self.pretrain_epochs:
            return
        texts = dataset(data, "train", range(schema.num_shards), schema=schema, config=config, epoch=1)
        chosen = evenly(texts, MAX_TEXTS)
        draw = torch.Generator().manual_seed(config.seed)
        for start in range(0, len(chosen), BLOCK):
            characters = collate(chosen[start : start + BLOCK]).characters
            context = F.pad(characters[:, :-1], (1, 0)) * PRIMES[0] + F.pad(characters[:, :-2], (2, 0)) * PRIMES[1]
            known = characters > 0
            rows = (context % (1 << 32) % CONTEXTS)[known]
            places = torch.randint(CONTINUATIONS, rows.shape, generator=draw)
            self.continuations[rows, places] = characters[known].int()


def zero_loss(module: nn.Module) -> Tensor:
    """Zero, with a gradient of zero for a module that a phase does not train: workers wait for all gradients."""
    return torch.stack([parameter.sum() for parameter in module.parameters()]).sum() * 0


class Cnn(nn.Module):
    """Convolutions of several widths side by side (Kim, 2014)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        sizes = [dim - (len(WIDTHS) - 1) * (dim // len(WIDTHS)), *[dim // len(WIDTHS)] * (len(WIDTHS) - 1)]
        self.layers = nn.ModuleList(
            nn.Conv1d(dim, size, width, padding=width // 2) for size, width in zip(sizes, WIDTHS, strict=True)
        )

    def forward(self, states_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """The same shape; padding is zero."""
        inputs = (states_BLD * mask_BL[..., None]).transpose(1, 2)
        return torch.cat([F.relu(layer(inputs)) for layer in self.layers], 1).transpose(1, 2)


class Rnn(nn.Module):
    """A bidirectional GRU."""

    def __init__(self, dim: int, num_layers: int) -> None:
        super().__init__()
        self.gru = nn.GRU(dim, (dim + 1) // 2, num_layers, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * ((dim + 1) // 2), dim)

    def forward(self, states_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """The same shape."""
        with torch.autocast(states_BLD.device.type, enabled=False):
            packed = nn.utils.rnn.pack_padded_sequence(
                states_BLD.float(), mask_BL.sum(1).clamp_min(1).cpu(), batch_first=True, enforce_sorted=False
            )
            found, _ = nn.utils.rnn.pad_packed_sequence(
                self.gru(packed)[0], batch_first=True, total_length=states_BLD.shape[1]
            )
            out: Tensor = self.out(found)
        return out


class Attention(nn.Module):
    """Blocks of a depthwise convolution of 7 characters, and of attention whose output is gated (Hua et al., 2022)."""

    def __init__(self, dim: int, num_blocks: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(dim, dropout) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(dim)

    def forward(self, states_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """The same shape."""
        for block in self.blocks:
            states_BLD = block(states_BLD, mask_BL)
        out: Tensor = self.norm(states_BLD)
        return out


class _Block(nn.Module):
    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.near = nn.Conv1d(dim, dim, 7, padding=3, groups=dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.mix, self.parts, self.out = nn.Linear(dim, dim), nn.Linear(dim, 4 * dim), nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        inputs = self.norms[0](states_BLD) * mask_BL[..., None]
        states_BLD = states_BLD + self.mix(F.gelu(self.near(inputs.transpose(1, 2)).transpose(1, 2)))
        query, key, value, gate = self.parts(self.norms[1](states_BLD)).chunk(4, -1)
        # A text of padding alone would have no key to attend to.
        allowed = mask_BL | ~mask_BL.any(1, keepdim=True)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed[:, None, :])
        added: Tensor = self.dropout(self.out(found * F.silu(gate)))
        return states_BLD + added


def encoder_of(config: Config) -> nn.Module:
    """The encoder that a Config selects."""
    match config.encoder:
        case "cnn":
            return Cnn(config.dim)
        case "rnn":
            return Rnn(config.dim, config.num_blocks)
        case "attention":
            return Attention(config.dim, config.num_blocks, config.dropout)
