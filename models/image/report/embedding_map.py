"""A map of pictures: those with similar embeddings lie near each other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.image.report.predictions import Answers, words
from models.report import Plot, Section
from models.sampling import evenly

MAX_PICTURES = 1000
MIN_PICTURES = 30
NUM_NAMED = 12
"""The most frequent classes have a shape and a colour of their own; the others share one."""
REST = "other classes"
PERPLEXITY = 25.0


def embedding_map(found: Answers) -> Section | None:
    """A plane of the embeddings by t-SNE (van der Maaten and Hinton, 2008); None where there is little to see."""
    head = found.heads[0]
    classes = found.schema.heads[head]
    chosen = evenly(found.known(head).tolist(), MAX_PICTURES)
    embeddings, labels = found.embeddings[chosen], found.labels_of(head)[chosen]
    if len(chosen) < MIN_PICTURES or float(embeddings.var(0).sum()) < 1e-9:
        return None
    counts = torch.bincount(labels, minlength=len(classes))
    named = [place for place in counts.argsort(descending=True, stable=True).tolist() if counts[place]][:NUM_NAMED]
    places = _plane(embeddings)
    series = {classes[place]: _points(places[labels == place]) for place in named}
    series[REST] = _points(places[~torch.isin(labels, torch.tensor(named))])
    neighbour = _neighbour_accuracy(embeddings, labels)
    title = f"{len(chosen):,} pictures by how alike the model finds them, marked by {words(head)}"
    reading = (
        "Pictures that the model finds alike lie together, so that classes in one heap are hard to tell apart and a "
        "mark among strangers is an odd picture or a wrong label; directions and distances between heaps mean nothing."
    )
    note = (
        f"Of these pictures {neighbour:.1%} have the class of the picture that is most like them: how far "
        "similar pictures can be relied on for the class."
    )
    return Section(
        "A map of the pictures",
        reading,
        [Plot(title, series, None, rest=REST), note],
        {"neighbour_accuracy": neighbour},
    )


def _plane(embeddings_ND: Tensor) -> Tensor:
    """Places [N, 2]; the same for the same embeddings."""
    from sklearn.manifold import TSNE  # seconds to import

    perplexity = min(PERPLEXITY, (len(embeddings_ND) - 1) / 3)
    found = TSNE(perplexity=perplexity, init="pca", random_state=0, n_jobs=1).fit_transform(embeddings_ND.numpy())
    return torch.from_numpy(found)


def _neighbour_accuracy(embeddings_ND: Tensor, labels_N: Tensor) -> float:
    similarity = embeddings_ND @ embeddings_ND.T
    similarity.fill_diagonal_(-math.inf)
    return float((labels_N[similarity.argmax(1)] == labels_N).float().mean())


def _points(places: Tensor) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in places.tolist()]
