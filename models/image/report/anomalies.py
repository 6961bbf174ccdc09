"""The report section with the images of the highest anomaly score."""

from __future__ import annotations

import torch

from models.image.networks.autoencoder import Autoencoder
from models.image.report.predictions import BLOCK, SplitPredictions
from models.image.report.thumbnails import thumbnail
from models.report import Gallery, Picture, Section

NUM_SHOWN = 14


def most_anomalous(network: Autoencoder, predictions: SplitPredictions) -> Section:
    """The images with the highest anomaly score, with their percentile ranks by the network and by PCA."""
    scores, ranks, pca_rank = [], [], []
    with torch.inference_mode():
        for start in range(0, len(predictions.rows), BLOCK):
            indices = list(range(start, min(start + BLOCK, len(predictions.rows))))
            anomaly_scores = network.anomaly_scores(predictions.batch(indices))
            scores.append(anomaly_scores.score)
            ranks.append(network.ranks(anomaly_scores.score))
            pca_rank.append(network.principal_ranks(anomaly_scores.pca))
    order = torch.cat(scores).argsort(descending=True, stable=True)[:NUM_SHOWN].tolist()
    network_ranks, pca_ranks = torch.cat(ranks), torch.cat(pca_rank)
    shown = [_shown(predictions, index, float(network_ranks[index]), float(pca_ranks[index])) for index in order]
    reading = (
        "These images differ most from the training images: look for wrong photos, bad crops and products that are new "
        "to the shop."
    )
    note = (
        "Below each image: its percentile rank among the validation images by the anomaly score of the network, and by "
        "the reconstruction error of PCA, the baseline."
    )
    return Section("Most anomalous images", reading, [Gallery(shown), note])


def _shown(predictions: SplitPredictions, index: int, rank: float, pca_rank: float) -> Picture:
    head = predictions.heads[0]
    label = int(predictions.labels_of(head)[index])
    name = f"{predictions.schema.heads[head][label]}, " if label >= 0 else ""
    caption = f"{name}{rank:.1%}; PCA {pca_rank:.1%} ({predictions.names[index]})"
    text = f"{predictions.names[index]}, {name}anomaly score above {rank:.1%} of the validation images"
    return thumbnail(predictions.pixels(index), text, caption)
