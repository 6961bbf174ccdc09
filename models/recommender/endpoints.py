"""The recommender's endpoints: requests, responses, and their translation to examples and from predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field

from models.family import Endpoint, Feature, Features
from models.raw.ids import Id
from models.recommender import filters, new_events
from models.recommender.data import history_rows
from models.recommender.filters import Filter, allowed_items
from models.recommender.held_out import Example
from models.recommender.live.catalogue import Catalogue, catalogue_in
from models.recommender.live.item_index import FEATURE as ITEM_TABLE
from models.recommender.live.item_index import table_rows
from models.recommender.networks.build import predict, predict_similar
from models.recommender.networks.recommender import Prediction
from models.recommender.new_events import HISTORY, history_key, history_keys
from models.recommender.requested import (
    HistoryEvent,
    Place,
    requested_events,
    seen_items,
    stored_events,
    types_of,
    with_neighbours,
)
from models.recommender.schema import PADDING, Schema

MAX_COUNT = 1000
MAX_HISTORY = 10_000
MAX_EXCLUDE = 100_000

FILTER_EXAMPLE: Any = {"brand": ["Alder", "Birch"], "in_stock": True, "price": {"min": 10, "max": 20}}


class RecommendationRequest(BaseModel):
    """Whom to recommend to and which items are allowed; an anonymous visitor has a session or nothing."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={
            "examples": [
                {"user_id": "17850", "count": 3},
                {"history": ["85123A", "71053"], "count": 3},
                {"user_id": "17850", "count": 3, "filter": FILTER_EXAMPLE},
            ]
        },
    )

    user_id: Id | None = None
    """The user, whose stored history is used; a number is read as its text."""
    session_id: Id | None = None
    """The visit, whose events are used for a visitor who is not logged in, or has logged in during it."""
    history: list[Id | HistoryEvent] | None = Field(default=None, max_length=MAX_HISTORY)
    """Item ids or events, oldest first; replaces the stored history."""
    count: int = Field(default=10, ge=1, le=MAX_COUNT)
    """Number of items to recommend."""
    exclude_seen: bool | None = None
    """Whether to leave out the items that the user has seen. By default as the data say (`prepare --seen`): items with
    an event of a seen type or without a type; none if repeats count, unless this is true, which then excludes the
    whole history."""
    exclude: list[Id] = Field(default_factory=list, max_length=MAX_EXCLUDE)
    """Item ids that must not be recommended."""
    filter: Filter = Field(default_factory=dict, examples=[FILTER_EXAMPLE])
    """Attribute of the item table -> a value, allowed values, or a range of numbers with both ends included, such as
    {"min": 10, "max": 20}; every attribute must match. 5 matches 5.0 and "5"."""


class RecommendedItem(BaseModel):
    """One item, its score (higher is better, comparable within one response) and why it was recommended."""

    item_id: str
    score: float
    reason: str


class RecommendationResponse(BaseModel):
    """The response to a recommendation request; `source` is `popular` where there was no history to go by, and
    `fallback` where the stored history could not be read and popular items took its place."""

    recommendation_id: str
    model_version: str
    source: Literal["personal", "popular", "fallback"]
    items: list[RecommendedItem]


class SimilarItemsRequest(BaseModel):
    """The item to find similar items for."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={
            "examples": [
                {"item_id": "85123A", "count": 3},
                {"item_id": "85123A", "count": 3, "filter": {"price": {"max": 20}}},
            ]
        },
    )

    item_id: Id
    """The item; a number is read as its text."""
    count: int = Field(default=10, ge=1, le=MAX_COUNT)
    """Number of items to return."""
    exclude: list[Id] = Field(default_factory=list, max_length=MAX_EXCLUDE)
    """Item ids that must not be returned."""
    filter: Filter = Field(default_factory=dict, examples=[FILTER_EXAMPLE])
    """Conditions on the attributes of the item table, as for recommendations."""


class SimilarItemsResponse(BaseModel):
    """Items that users interact with in similar contexts as the given one."""

    recommendation_id: str
    model_version: str
    items: list[RecommendedItem]


def golden_request(schema: Schema) -> RecommendationRequest:
    """A user with the first and the last item of the vocabulary in their history, with types where the log has any."""
    items = schema.items[0], schema.items[-1]
    if not schema.has_types:
        return RecommendationRequest(history=list(items), count=5)
    types = schema.event_types[0], schema.event_types[-1]
    events = [HistoryEvent(item_id=item, event_type=name) for item, name in zip(items, types, strict=True)]
    return RecommendationRequest(history=list(events), count=5)


def encode_recommendation(request: RecommendationRequest, schema: Schema, features: Features) -> list[Example]:
    """The example of a recommendation request; items unknown to the model and the live catalogue are dropped."""
    live = catalogue_in(features)
    place = schema.index.get if live is None else live.place
    if (key := history_key(request)) is not None:
        events = stored_events(features.get(HISTORY, {}).get(key, []), schema, place)
    else:
        events = requested_events(request.history or [], schema, place)
    excluded = seen_items(events, schema, exclude_seen=request.exclude_seen)
    events, replaced = with_neighbours(events, live)
    example = Example(
        history=[item for item, _ in events],
        types=types_of(events, schema),
        count=request.count,
        excluded=sorted({*_known(request.exclude, place), *excluded}),
        allowed=_allowed(request.filter, features, live, place),
        new=live.new if live else None,
        replaced=replaced,
    )
    return [example]


def encode_similar(request: SimilarItemsRequest, schema: Schema, features: Features) -> list[Example]:
    """The example of a similar-items request; ValueError when the item is unknown, or new without usable attributes."""
    live = catalogue_in(features)
    place = schema.index.get if live is None else live.place
    item = place(request.item_id)
    if item is None:
        raise ValueError(f"item_id {request.item_id!r} is unknown to this model; it knows {schema.num_items} items")
    events, replaced = with_neighbours([(item, 0)], live)
    if not events:
        raise ValueError(f"item_id {request.item_id!r} is new and has no attribute that it shares with other items")
    example = Example(
        history=[of_event for of_event, _ in events],
        count=request.count,
        excluded=sorted({item, *_known(request.exclude, place)}),
        allowed=_allowed(request.filter, features, live, place),
        new=live.new if live else None,
        replaced=replaced,
        subject=item if replaced else None,
    )
    return [example]


def answer_recommendation(
    request: RecommendationRequest, predictions: Sequence[Prediction], schema: Schema, model_version: str
) -> RecommendationResponse:
    """The response to one prediction."""
    (prediction,) = predictions
    return RecommendationResponse(
        recommendation_id=str(uuid4()),
        model_version=model_version,
        source="personal" if prediction.personal else "popular",
        items=_items(prediction, schema),
    )


def fallback(response: RecommendationResponse) -> RecommendationResponse:
    """The response of popular items in place of those for a stored history that could not be read."""
    return response.model_copy(update={"source": "fallback"})


def answer_similar(
    request: SimilarItemsRequest, predictions: Sequence[Prediction], schema: Schema, model_version: str
) -> SimilarItemsResponse:
    """The response to one prediction of similar items."""
    (prediction,) = predictions
    return SimilarItemsResponse(
        recommendation_id=str(uuid4()), model_version=model_version, items=_items(prediction, schema)
    )


def no_keys(request: Any) -> list[str]:
    """None: the item table is read as a whole, see live/item_index."""
    return []


FEATURES = (
    Feature(name=HISTORY, keys=history_keys, rows=history_rows, can_be_missing=True, is_personal=True),
    *filters.FEATURES,
    *new_events.FEATURES,
    Feature(name=ITEM_TABLE, keys=no_keys, rows=table_rows),
)

ENDPOINTS = (
    Endpoint(
        path="/v1/recommendations",
        summary="Recommend items to a user",
        Request=RecommendationRequest,
        Response=RecommendationResponse,
        encode=encode_recommendation,
        predict=predict,
        answer=answer_recommendation,
        fallback=fallback,
    ),
    Endpoint(
        path="/v1/similar_items",
        summary="Find items similar to one",
        Request=SimilarItemsRequest,
        Response=SimilarItemsResponse,
        encode=encode_similar,
        predict=predict_similar,
        answer=answer_similar,
    ),
)


def _known(items: Sequence[str], place: Place) -> list[int]:
    return [index for item in items if (index := place(item)) is not None]


def _allowed(wanted: Filter, features: Features, live: Catalogue | None, place: Place) -> list[int] | None:
    overlays, more = (live.overlays, live.beyond) if live else (None, None)
    items = allowed_items(wanted, features, overlays=overlays, more=more)
    return None if items is None else sorted({index for item in items if (index := place(item))})


def _items(prediction: Prediction, schema: Schema) -> list[RecommendedItem]:
    def name(item: int) -> str:
        new = prediction.new
        return schema.items[item - 1] if new is None or item < new.first else new.ids[item - new.first]

    return [
        RecommendedItem(
            item_id=name(item),
            score=score,
            reason=_reason(name(event) if event != PADDING else None, is_new=item > schema.num_items),
        )
        for item, score, event in zip(prediction.items, prediction.scores, prediction.explanations, strict=True)
    ]


def _reason(other: str | None, *, is_new: bool) -> str:
    """Why an item is recommended: `other` is the event that it follows, or what a new item is similar to."""
    if is_new:
        return f"new item, similar to {other}" if other is not None else "new item"
    return f"often follows {other}" if other is not None else "popular"
