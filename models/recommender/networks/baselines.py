"""Baselines that a first champion has to beat, computed from counts: popularity and item-kNN."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.prepared import Prepared
from models.recommender.data import Histories
from models.recommender.held_out import ShardLog
from models.recommender.networks.transitions import Transitions, popularity_of
from models.recommender.schema import Schema

NUM_NEIGHBOURS = 100
"""Neighbours kept for each item."""


class Popularity(nn.Module):
    """The same scores for everyone: each item's share of training events [V]."""

    popularity: Tensor

    def __init__(self, num_items: int) -> None:
        super().__init__()
        self.register_buffer("popularity", torch.zeros(num_items + 1))

    def count(self, popularity: NDArray[Any]) -> None:
        """Set each item's share of the training events [V]."""
        self.popularity = torch.from_numpy(popularity.astype(np.float32))

    def forward(self, batch: Histories) -> Tensor:
        """Scores [B, V]."""
        return self.popularity.expand(len(batch.lengths), -1).clone()


def count_neighbours(data: Prepared, schema: Schema, network: Transitions) -> None:
    """Item-kNN: cosine similarity of the user sets of two items, nearest kept; events of a history are weighted alike.

    Sarwar et al., "Item-based collaborative filtering recommendation algorithms", WWW 2001.
    """
    size = schema.num_items + 1
    co_counts = sp.csr_array((size, size), dtype=np.float32)
    for shard in range(schema.num_shards):
        log = ShardLog.open(data, shard)
        lengths = np.diff(log.offsets)
        user = np.repeat(np.arange(log.num_users), lengths)
        position = np.arange(len(log.items)) - np.repeat(log.offsets[:-1], lengths)
        in_train = position < np.repeat(log.splits[:, 0], lengths)
        ones = np.ones(int(in_train.sum()), np.float32)
        interactions = sp.csr_array((ones, (user[in_train], log.items[in_train])), shape=(log.num_users, size))
        interactions.data[:] = 1
        co_counts = co_counts + interactions.T @ interactions
    norm = np.sqrt(np.maximum(co_counts.diagonal(), 1))
    cosine = (sp.diags_array(1 / norm) @ co_counts @ sp.diags_array(1 / norm)).tocsr()
    cosine.setdiag(0)
    cosine.eliminate_zeros()
    network.set(_nearest(cosine), popularity_of(schema), decay=1.0)


def _nearest(cosine: sp.csr_array) -> sp.csr_array:
    indptr, indices, data = [0], [], []
    for row in range(cosine.shape[0]):
        begin, end = cosine.indptr[row], cosine.indptr[row + 1]
        strongest = begin + np.argsort(-cosine.data[begin:end], kind="stable")[:NUM_NEIGHBOURS]
        strongest = strongest[np.argsort(cosine.indices[strongest])]
        indices.append(cosine.indices[strongest])
        data.append(cosine.data[strongest])
        indptr.append(indptr[-1] + len(strongest))
    return sp.csr_array((np.concatenate(data), np.concatenate(indices), np.array(indptr)), shape=cosine.shape)
