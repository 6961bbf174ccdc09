"""The forecast family's endpoint: demand of a product by date, with quantiles, and what to reorder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from models.family import Endpoint, Feature, Features
from models.forecast.config import MAX_CONTEXT
from models.forecast.data import (
    CATEGORY,
    MAX_SERIES_OF_TOTAL,
    Window,
    cut,
    key_of,
    naive_scale,
    series_rows,
    store_rows,
    total_key,
    total_rows,
)
from models.forecast.groups import Kind
from models.forecast.networks.answers import QUANTILES, Forecast, together, total_of
from models.forecast.networks.build import predict
from models.forecast.networks.totals import Uncertainty
from models.forecast.schema import CENSORED, KNOWN, UNKNOWN, Schema
from models.raw.demand import demand_classes
from models.raw.ids import Id

SERIES, STORES, TOTALS = "series", "stores", "totals"
MAX_HISTORY = 5_000
Units = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Number = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]


class ForecastRequest(BaseModel):
    """What to forecast: a product of the prepared sales, or a history that the request brings along."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_extra={
            "examples": [
                {"product_id": "85123A", "horizon": 7},
                {"product_id": "85123A", "lead_time": 7, "service_level": 0.95, "stock": 40},
                {"history": [3, 0, 4, 2, 5, 1, 0, 2], "horizon": 3},
                {"total": "category", "total_of": "tea", "horizon": 7},
            ]
        },
    )

    product_id: Id | None = None
    """The product; a number is read as its text. Its stored history is used, unless the request has one."""
    store_id: Id | None = None
    """The store, where the sales have stores; without it the forecast is of all stores together."""
    total: Kind | None = None
    """Instead of a product the total of a category, of a store, or of all series."""
    total_of: Id | None = None
    """The category or the store of a total; `total`: "category" without it is of the products without a category."""
    horizon: int | None = Field(default=None, ge=1)
    """Periods to forecast; by default as many as the model can."""
    history: list[Units | None] | None = Field(default=None, min_length=1, max_length=MAX_HISTORY)
    """Units of consecutive periods, oldest first, the last one the period before the forecast; null is not known."""
    sold_out: list[int] = Field(default_factory=list, max_length=MAX_HISTORY)
    """Places in `history`, from 0, of periods in which stock ran out: demand was at least the units."""
    start: str | None = Field(default=None, max_length=10)
    """The first period of the forecast, YYYY-MM-DD, for a history of the request; by default that after the sales."""
    known: dict[str, list[Number]] = Field(default_factory=dict, max_length=100)
    """What is known ahead, such as promotion, of each period of the forecast; replaces the calendar's."""
    attributes: dict[str, str] = Field(default_factory=dict, max_length=100)
    """Attributes of the product, such as category, for a history of the request."""
    service_level: float = Field(default=0.95, ge=0.5, le=0.999)
    """The probability that the stock lasts over the lead time, for `order`."""
    lead_time: int | None = Field(default=None, ge=1)
    """Periods until an order of today arrives and the next one could; without it nothing is suggested."""
    stock: float = Field(default=0, ge=0, le=1e9)
    """Units on hand and on order."""


class Period(BaseModel):
    """Demand in one period: its mean, a 90 % interval, and the quantiles from 5 % (q05) to 99 % (q99)."""

    date: str
    """Its first day, or its number."""
    mean: float
    lower: float
    """Of the 90 % interval: 0 where no demand is that likely, else the 5 % quantile."""
    upper: float
    q05: float
    q10: float
    q25: float
    q50: float
    """The median."""
    q75: float
    q90: float
    q95: float
    q99: float


class ForecastResponse(BaseModel):
    """The forecast, period by period; `source` is `stored` or `request`, whose history was used.

    Where the request has a lead time: the mean of the demand over it, the stock that lasts over it with the probability
    of the service level, and what is missing to that stock, in whole units. Of a total `num_series` is how many series
    it sums, and `note` says where its interval is not calibrated on totals of its kind.
    """

    model_version: str
    source: str
    expected_demand: float | None
    needed_stock: float | None
    order: int | None
    periods: list[Period]
    num_series: int | None = None
    note: str | None = None


def golden_request(schema: Schema) -> ForecastRequest:
    """A request with a history of two seasons, which every model of the schema can answer."""
    unit = max(1.0, round(schema.unit))
    history: list[float | None] = [unit * ((place * 7) % 5) for place in range(2 * schema.season)]
    return ForecastRequest(history=history, lead_time=min(2, schema.horizon))


def encode(request: ForecastRequest, schema: Schema, features: Features) -> list[Window]:
    """The window of a request; raises ValueError for an unknown product, or what does not fit the model."""
    _check(request, schema)
    if request.history is not None:
        units = np.array([unit or 0.0 for unit in request.history], np.float32)
        status = np.array([UNKNOWN if unit is None else KNOWN for unit in request.history], np.uint8)
        status[request.sold_out] = CENSORED
        start = schema.num_periods if request.start is None else schema.place(request.start)
        windows = [_window(request, schema, units, status, start=start, ahead={}, static=request.attributes)]
        _check_windows(windows, "the history", schema, start=request.start)
        return windows
    if request.total is not None:
        return _total_windows(request, schema, features)
    found: list[Mapping[str, Any]]
    if schema.has_stores and request.store_id is None:
        by_store = features.get(STORES, {}).get(str(request.product_id), {})
        found = [by_store[store] for store in sorted(by_store)]
    else:
        series = features.get(SERIES, {}).get(key_of(str(request.product_id), request.store_id))
        found = [] if series is None else [series]
    where = "" if request.store_id is None else f" in the store {request.store_id!r}"
    if not found:
        raise ValueError(f"product_id {request.product_id!r}{where} has no stored history; send a `history`")
    windows = [_stored_window(request, schema, each) for each in found]
    _check_windows(windows, f"the stored history of {request.product_id!r}{where}", schema)
    return windows


def answer(
    request: ForecastRequest, predictions: Sequence[Forecast], schema: Schema, model_version: str
) -> ForecastResponse:
    """The response to one forecast, or to those of all stores together."""
    kind = request.total
    found = together(predictions) if kind is None else total_of(predictions, kind)
    periods = [
        Period(
            date=schema.date(found.start + step),
            mean=float(found.mean[step]),
            lower=float(found.interval[step, 0]),
            upper=float(found.interval[step, 1]),
            **{
                f"q{round(100 * level):02d}": float(found.quantiles[step, place])
                for place, level in enumerate(QUANTILES)
            },
        )
        for step in range(request.horizon or schema.horizon)
    ]
    lead_time = request.lead_time
    needed = None if lead_time is None else found.total_quantile(request.service_level, lead_time)
    return ForecastResponse(
        model_version=model_version,
        source="stored" if request.history is None else "request",
        expected_demand=None if lead_time is None else float(found.total_mean[lead_time - 1]),
        needed_stock=needed,
        order=None if needed is None else max(0, math.ceil(needed - request.stock)),
        periods=periods,
        num_series=None if kind is None else len(predictions),
        note=None if kind is None else _note(found.totals.of(kind)),
    )


def asked_series(request: ForecastRequest) -> list[str]:
    """The key of the stored history that a request needs."""
    if request.history is not None or request.product_id is None:
        return []
    return [key_of(request.product_id, request.store_id)]


def asked_product(request: ForecastRequest) -> list[str]:
    """The key of the histories in all stores, for a request without a store."""
    return asked_series(request) if request.store_id is None else []


def asked_total(request: ForecastRequest) -> list[str]:
    """The key of the histories that a total sums."""
    if request.total is None:
        return []
    return [total_key(request.total, request.total_of or "")]


FEATURES = (
    Feature(name=SERIES, keys=asked_series, rows=series_rows),
    Feature(name=STORES, keys=asked_product, rows=store_rows),
    Feature(name=TOTALS, keys=asked_total, rows=total_rows),
)
ENDPOINTS = (
    Endpoint(
        path="/v1/forecasts/demand",
        summary="Forecast a product's demand, and suggest what to reorder",
        Request=ForecastRequest,
        Response=ForecastResponse,
        encode=encode,
        predict=predict,
        answer=answer,
    ),
)


def _check(request: ForecastRequest, schema: Schema) -> None:
    _check_total(request, schema)
    if request.total is None and request.history is None and request.product_id is None:
        raise ValueError("send a product_id, or a `history` of units")
    for name, periods in (("horizon", request.horizon), ("lead_time", request.lead_time)):
        if periods is not None and periods > schema.horizon:
            raise ValueError(f"{name} is {periods}, and the model forecasts {schema.horizon} {schema.period}s at most")
    if request.history is None:
        for name in ("start", "sold_out", "attributes"):
            if getattr(request, name):
                raise ValueError(f"`{name}` is for a history of the request, and there is none; leave it out")
    else:
        wrong = [place for place in request.sold_out if not 0 <= place < len(request.history)]
        if wrong:
            raise ValueError(f"sold_out has {wrong[0]}, and the history the places 0 to {len(request.history) - 1}")
        if not any(unit is not None for unit in request.history):
            raise ValueError("the history has no known period; send at least one number")
    for name in request.attributes:
        if name not in schema.static:
            raise ValueError(f"the model knows no attribute {name!r}; it knows {', '.join(schema.static) or 'none'}")
    for name, values in request.known.items():
        if name not in schema.ahead:
            raise ValueError(f"{name!r} is not known ahead; the model knows {', '.join(schema.ahead) or 'nothing'}")
        if len(values) > schema.horizon:
            raise ValueError(f"{name!r} has {len(values)} values, and a forecast {schema.horizon} periods")


def _check_total(request: ForecastRequest, schema: Schema) -> None:
    """Raise ValueError for a total that is not said completely, or of what has no totals."""
    if request.total is None:
        if request.total_of is not None:
            raise ValueError("`total_of` names a category or store; send `total` with it, or leave it out")
        return
    for name in ("product_id", "store_id", "history", "lead_time"):
        if getattr(request, name) is not None:
            raise ValueError(f"`{name}` is of a single product, and `total` is of many; leave one of them out")
    if request.total == "all" and request.total_of is not None:
        raise ValueError(f"`total` is 'all', and `total_of` {request.total_of!r}; leave it out, or name its kind")
    if request.total == "store" and request.total_of is None:
        raise ValueError("`total` is 'store': send the store as `total_of`")
    has_any = {"category": CATEGORY in schema.static, "store": schema.has_stores, "all": True}
    if not has_any[request.total]:
        raise ValueError(f"the sales that the model learnt from have no {request.total}; prepare them with one")


def _total_windows(request: ForecastRequest, schema: Schema, features: Features) -> list[Window]:
    """The windows of all series of a total."""
    name = request.total_of or ""
    what = "all series" if request.total == "all" else f"the {request.total} {name!r}"
    found = features.get(TOTALS, {}).get(total_key(str(request.total), name))
    if found is None:
        raise ValueError(f"no histories of {what} are stored; check the spelling, or run `shopkeeper deploy` again")
    if not found["series"]:
        raise ValueError(
            f"{what} has {found['num_series']:,} series, and a total here sums {MAX_SERIES_OF_TOTAL:,} at most; ask "
            "for smaller totals, and add up their means"
        )
    windows = [_stored_window(request, schema, each) for each in found["series"]]
    _check_windows(windows, f"the stored histories of {what}", schema)
    return windows


def _note(found: Uncertainty) -> str | None:
    """What a reader of a total's interval should know."""
    if not found.num_totals:
        return (
            "validation had too few totals to calibrate: the interval takes errors of series for independent, and is "
            "too narrow where they go together; train on data prepared with more --windows"
        )
    return None if found.is_own else "the interval is that of totals of all kinds: validation had too few of this one"


def _check_windows(windows: Sequence[Window], what: str, schema: Schema, *, start: str | None = None) -> None:
    """Raise ValueError for histories from which nothing can be forecast, or dates after the calendar's end."""
    if not any((each.status == KNOWN).any() for each in windows):
        raise ValueError(
            f"stock ran out in every known period of {what}, so what was asked for is not known; send a `history` with "
            "a period in which there was stock"
        )
    try:
        schema.date(windows[0].start + schema.horizon)
    except OverflowError:
        raise ValueError(f"start {start!r} is too late: the calendar ends with the year 9999") from None


def _stored_window(request: ForecastRequest, schema: Schema, found: Mapping[str, Any]) -> Window:
    """The window of a stored history; the forecast begins where it ends."""
    if found.get("period", schema.period) != schema.period:
        raise ValueError(
            f"the model forecasts {schema.period}s and the stored histories are by {found['period']}; use a model that "
            f"was trained on them, or prepare with --period {schema.period}"
        )
    units = np.array(found["units"], np.float32)
    status = np.frombuffer(found["status"].encode(), np.uint8) - ord("0")
    start = schema.place(found["from"]) + len(units)
    return _window(request, schema, units, status, start=start, ahead=found["ahead"], static=found["static"])


def _window(
    request: ForecastRequest,
    schema: Schema,
    units: npt.NDArray[np.float32],
    status: npt.NDArray[np.uint8],
    *,
    start: int,
    ahead: Mapping[str, Sequence[float]],
    static: Mapping[str, str],
) -> Window:
    """A window of MAX_CONTEXT periods, of which the network takes the last ones."""
    length, horizon = MAX_CONTEXT, schema.horizon
    codes = [values.index(static[name]) if static.get(name) in values else 0 for name, values in schema.static.items()]
    columns = [schema.time_features(start - length, start + horizon)]
    for name, scale in zip(schema.ahead, schema.ahead_scale, strict=True):
        column = np.zeros(length + horizon, np.float32)
        stored = np.array(ahead.get(name, ()), np.float32)
        # The stored values begin with the history and go on into the future.
        future = stored[len(units) : len(units) + horizon]
        past = stored[: len(units)][-length:]
        column[length - len(past) : length] = past
        column[length : length + len(future)] = future
        given = request.known.get(name)
        if given is not None:
            column[length:] = 0
            column[length : length + len(given)] = given
        columns.append(column[:, None] / scale)
    demand = demand_classes(units[None], (status != UNKNOWN)[None])
    return Window(
        units=cut(units * (status != UNKNOWN), len(units) - length, len(units)),
        status=cut(status, len(units) - length, len(units)),
        known=np.concatenate(columns, 1).astype(np.float32),
        static=np.array(codes, np.int64),
        target=np.zeros(horizon, np.float32),
        target_status=np.zeros(horizon, np.uint8),
        naive_scale=naive_scale(units, status),
        demand=int(demand[0]),
        start=start,
    )
