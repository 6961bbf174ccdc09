"""The images that an autoencoder finds least like those it has learnt from."""

from __future__ import annotations

import torch

from models.image.networks.autoencoder import Autoencoder
from models.image.report.predictions import BLOCK, Answers
from models.image.report.thumbnails import thumbnail
from models.report import Gallery, Picture, Section

NUM_SHOWN = 14


def most_anomalous(network: Autoencoder, found: Answers) -> Section:
    """Those with the highest score, with their rank by the network and by principal components alone."""
    scores, ranks, plain = [], [], []
    with torch.inference_mode():
        for start in range(0, len(found.rows), BLOCK):
            places = list(range(start, min(start + BLOCK, len(found.rows))))
            anomaly_scores = network.anomaly_scores(found.batch(places))
            scores.append(anomaly_scores.score)
            ranks.append(network.ranks(anomaly_scores.score))
            plain.append(network.principal_ranks(anomaly_scores.pca))
    order = torch.cat(scores).argsort(descending=True, stable=True)[:NUM_SHOWN].tolist()
    of_network, of_plain = torch.cat(ranks), torch.cat(plain)
    shown = [_shown(found, place, float(of_network[place]), float(of_plain[place])) for place in order]
    reading = (
        "These images are least like the training images, so look for a wrong photo, a bad crop or a product that "
        "the shop has not sold before."
    )
    note = (
        "Below each: the share of the validation images that are less strange, by the network and by principal "
        "components alone, the plain way."
    )
    return Section("Strange images", reading, [Gallery(shown), note])


def _shown(found: Answers, place: int, rank: float, plain: float) -> Picture:
    head = found.heads[0]
    label = int(found.labels_of(head)[place])
    name = f"{found.schema.heads[head][label]}, " if label >= 0 else ""
    caption = f"{name}{rank:.1%}; plain {plain:.1%} ({found.names[place]})"
    return thumbnail(found.pixels(place), f"{found.names[place]}, {name}stranger than {rank:.1%}", caption)
