"""The report section with a t-SNE map of the image embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.extras import extra
from models.image.report.predictions import SplitPredictions, words
from models.report import Plot, Section
from models.sampling import evenly

MAX_IMAGES = 1000
MIN_IMAGES = 30
NUM_MARKED = 12
"""Only the most frequent classes have markers of their own; all others share one."""
OTHER_CLASSES = "other classes"
PERPLEXITY = 25.0


def embedding_map(predictions: SplitPredictions) -> Section | None:
    """The embeddings in two dimensions by t-SNE (van der Maaten and Hinton, 2008); None if too few or all equal."""
    head = predictions.heads[0]
    classes = predictions.schema.heads[head]
    chosen = evenly(predictions.known(head).tolist(), MAX_IMAGES)
    embeddings, labels = predictions.embeddings[chosen], predictions.labels_of(head)[chosen]
    if len(chosen) < MIN_IMAGES or float(embeddings.var(0).sum()) < 1e-9:
        return None
    counts = torch.bincount(labels, minlength=len(classes))
    marked = [index for index in counts.argsort(descending=True, stable=True).tolist() if counts[index]][:NUM_MARKED]
    points = _tsne(embeddings)
    series = {classes[index]: _points(points[labels == index]) for index in marked}
    series[OTHER_CLASSES] = _points(points[~torch.isin(labels, torch.tensor(marked))])
    neighbour = _neighbour_accuracy(embeddings, labels)
    title = f"t-SNE of the embeddings of {len(chosen):,} images, marked by {words(head)}"
    reading = (
        "Images with similar embeddings are close together: classes in one cluster are hard to distinguish, and a "
        "marker among other classes is an outlier or a label error; distances between clusters have no meaning."
    )
    note = (
        f"Nearest-neighbour accuracy: {neighbour:.1%} of these images have the same class as the image with the most "
        "similar embedding."
    )
    return Section(
        "Embedding map",
        reading,
        [Plot(title, series, None, rest=OTHER_CLASSES), note],
        {"neighbour_accuracy": neighbour},
    )


def _tsne(embeddings_ND: Tensor) -> Tensor:
    """Points [N, 2]; deterministic."""
    with extra("image"):
        from sklearn.manifold import TSNE  # seconds to import

    perplexity = min(PERPLEXITY, (len(embeddings_ND) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(embeddings_ND.numpy())
    return torch.from_numpy(points)


def _neighbour_accuracy(embeddings_ND: Tensor, labels_N: Tensor) -> float:
    similarity = embeddings_ND @ embeddings_ND.T
    similarity.fill_diagonal_(-math.inf)
    return float((labels_N[similarity.argmax(1)] == labels_N).float().mean())


def _points(points_N2: Tensor) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points_N2.tolist()]
