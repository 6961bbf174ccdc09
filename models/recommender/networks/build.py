"""Builds the network that a Config names, and initialises what is not trained by gradients."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import svds
from torch import Tensor, nn

from models.metrics import BatchMetrics
from models.plugins import network_of, require
from models.prepared import Prepared
from models.recommender.auto_settings import resolve
from models.recommender.config import Config
from models.recommender.data import Histories, Rows
from models.recommender.event_weights import item_weights
from models.recommender.item_features import ItemFeatures, find_nearest_neighbours
from models.recommender.networks.autoencoder import Autoencoder
from models.recommender.networks.baselines import Popularity, count_neighbours
from models.recommender.networks.event_pairs import count_event_pairs
from models.recommender.networks.gan import Gan
from models.recommender.networks.gru import Recurrent
from models.recommender.networks.next_item import NextItem
from models.recommender.networks.recommender import Learner, Prediction, Recommender
from models.recommender.networks.transformer import Transformer
from models.recommender.networks.transitions import (
    Transitions,
    add_cold_start_items,
    count_and_tune,
    count_pairs,
    popularity_of,
    tune_pairs,
    tuning_examples,
)
from models.recommender.networks.two_tower import TwoTower
from models.recommender.schema import Schema

SPECTRAL_WINDOW = 8
"""Largest distance of the item pairs that the embeddings start from."""
MAX_SPECTRAL_WIDTH = 96
"""Columns that start from them; wider tables start at random beyond, as 256 vectors take half a minute."""


def build(config: Config, schema: Schema) -> Recommender:
    """An untrained recommender; raises ValueError for an unknown network."""
    config = resolve(config, schema)
    prior: nn.Module | None = Transitions(schema.num_items, len(schema.event_types) if schema.has_types else 0)
    learner: Learner | None = None
    match config.network:
        case "transformer":
            transformer = Transformer(
                dim=config.dim,
                num_blocks=config.num_blocks,
                num_heads=config.num_heads,
                dropout=config.dropout,
                max_length=config.max_length,
            )
            learner = NextItem(config, schema, transformer)
        case "gru":
            gru = Recurrent(dim=config.dim, num_blocks=config.num_blocks, dropout=config.dropout, cell=config.cell)
            learner = NextItem(config, schema, gru)
        case "two_tower":
            tower = TwoTower(dim=config.dim, num_blocks=config.num_blocks, dropout=config.dropout)
            learner = NextItem(config, schema, tower)
        case "autoencoder":
            learner = Autoencoder(config, schema)
        case "gan":
            learner = Gan(config, schema)
        case "transitions" | "item_knn":
            pass
        case "popularity":
            prior = Popularity(schema.num_items)
        case name:
            network = network_of("recommender", name)(config, schema)
            require(network, "loss", "log_scores", "items", of=name)
            learner = network
    if learner is not None and not config.blend:
        prior = None
    return Recommender(config, schema, learner=learner, prior=prior)


def initialise(network: Recommender, data: Prepared, schema: Schema) -> None:
    """Count the prior, start the embeddings from singular vectors, and set the item features and nearest neighbours."""
    features = ItemFeatures.open(data) if schema.num_features else None
    if features is not None:
        nearest = find_nearest_neighbours(features.matrix(), np.asarray([1, *schema.item_counts]) > 0)
        if network.cold_start is not None:
            network.cold_start.set(nearest)
    match network.prior:
        case Popularity() as prior:
            prior.count(popularity_of(schema, item_weights(data, schema, network.event_weights)))
        case Transitions() as prior if network.is_item_knn:
            count_neighbours(data, schema, prior)
        case Transitions() as prior:
            tuned = count_and_tune(data, schema, event_weights=network.event_weights)
            weights = tuned.weights
            if features is not None:
                weights = add_cold_start_items(weights, nearest.matrix(schema.num_items + 1))
            prior.set(weights, tuned.popularity, tuned.shape.decay, tuned.type_factors)
            if not schema.has_types and (counts := count_event_pairs(data, schema)) is not None:
                tune_pairs(prior, counts, tuning_examples(data, schema))
    if network.learner is not None and features is not None:
        network.learner.items.set_features(features, nearest)
    if network.learner is not None and network.spectral_start:
        transitions = count_pairs(data, schema, window=SPECTRAL_WINDOW)
        items = network.learner.items.weight.data
        width = min(items.shape[1], MAX_SPECTRAL_WIDTH)
        items[:, :width] = spectral_embeddings(transitions, width)


def spectral_embeddings(counts: sp.csr_array, dim: int) -> Tensor:
    """Item embeddings [V, dim] from the singular vectors of the damped, symmetric transition counts [V, V].

    Factorises the positive pointwise mutual information, as skip-gram embeddings do (Levy and Goldberg, NeurIPS 2014).
    """
    both = (counts + counts.T).tocoo()
    row_sum = np.asarray(both.sum(axis=1)).ravel()
    share = row_sum**0.75 / (row_sum**0.75).sum()
    information = np.log(np.maximum(both.data / (row_sum[both.row] * share[both.col]), 1e-12))
    positive = sp.csr_array((np.maximum(information, 0), (both.row, both.col)), shape=both.shape)
    rank = min(dim, both.shape[0] - 2)
    left, values, _ = svds(positive.astype(np.float32), k=rank, random_state=0)
    embeddings = np.zeros((both.shape[0], dim), np.float32)
    embeddings[:, :rank] = left * np.sqrt(values)
    embeddings /= max(float(embeddings.std()), 1e-9) * dim**0.5
    return torch.from_numpy(embeddings)


def loss(network: Recommender, batch: Rows | Histories) -> Tensor:
    """The network's loss of training rows."""
    assert isinstance(batch, Rows), "a recommender trains on rows"
    return network.forward(batch)


def evaluate(network: Recommender, batch: Rows | Histories) -> BatchMetrics:
    """Metrics of the network on held-out histories."""
    return network.evaluate(_histories(batch))


def calibration(network: Recommender, batch: Rows | Histories) -> Tensor | None:
    """Sums over validation histories for `Recommender.calibrate`."""
    return network.calibration(_histories(batch))


def predict(network: Recommender, batch: Rows | Histories) -> list[Prediction]:
    """The best items for each history."""
    return network.predict(_histories(batch))


def predict_similar(network: Recommender, batch: Rows | Histories) -> list[Prediction]:
    """The items most similar to the only one of each history."""
    return network.predict_similar(_histories(batch))


def _histories(batch: Rows | Histories) -> Histories:
    assert isinstance(batch, Histories), "a recommender evaluates and predicts on histories"
    return batch
