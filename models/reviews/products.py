"""The reputation of each product from its prepared reviews, for the feature store and its endpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from models.arrays import load_array
from models.prepared import Prepared
from models.reviews.aspects.reading import FILE, lexicons_of
from models.reviews.reputation.table import reputation_table
from models.reviews.schema import UNLABELLED, Schema
from models.reviews.text import LANGUAGES

SCORES = {"negative": 0.0, "neutral": 0.5, "positive": 1.0}
COLUMNS = ("product_id", "text", "category", "time_us", "rating")


def product_reviews(data: Prepared) -> tuple[pa.Table, npt.NDArray[np.float64]]:
    """The reviews of products as `reputation_table` reads them, and how positive each is; those without both are out.

    A review without a class, such as one of 3 stars, counts as half.
    """
    schema, tables, scores = data.schema(Schema), list[pa.Table](), []
    of_class = np.array([SCORES[name] for name in schema.classes] + [0.5])
    for shard in data.shards():
        table = pq.read_table(shard / "reviews.parquet", columns=list(COLUMNS))
        labels = load_array(shard / "labels.npy").astype(np.int64)
        languages = [LANGUAGES[number] for number in load_array(shard / "languages.npy").tolist()]
        is_said = (labels != UNLABELLED) | ~np.isnan(table["rating"].to_numpy().astype(np.float64))
        kept = is_said & np.array([product is not None for product in table["product_id"].to_pylist()], np.bool_)
        reviews = pa.table(
            {
                "product": table["product_id"],
                "text": table["text"],
                "category": table["category"],
                "time_s": pa.array(table["time_us"].to_numpy().astype(np.float64) / 1e6),
                "language": pa.array(languages, pa.string()),
            }
        )
        tables.append(reviews.filter(pa.array(kept)))
        scores.append(of_class[labels][kept])
    return pa.concat_tables(tables), np.concatenate(scores)


def reputation_rows(data: Prepared) -> Iterator[tuple[str, dict[str, Any]]]:
    """(product, its row of the reputation table) of every product; none without products."""
    reviews, scores = product_reviews(data)
    if not reviews.num_rows:
        return
    lexicons = lexicons_of((data.path / FILE).read_bytes())
    for row in reputation_table(reviews, scores, lexicons=lexicons).to_pylist():
        row["summary"] = json.loads(row["summary"])
        yield row.pop("product"), row
