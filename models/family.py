"""The contract between a family of models and the jobs and the service that work on any family: one typed value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import TypeVar

from models.config import LogUniform, Range, TrainConfig
from models.metrics import BatchMetrics, Metric
from models.prepared import Prepared
from models.report import Section


class Schema(BaseModel):
    """What a network and an endpoint must know of the data: fixed by `prepare`, stored in every bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    """Name of the family."""
    fingerprint: str
    """sha256 of the prepared rows and split rule; equal rows give an equal fingerprint."""
    num_shards: int
    """The prepared data lies in shards 0 .. num_shards - 1; a worker reads every world-size-th one."""
    num_examples: dict[str, int]
    """Examples in each split: `train` (rows of events, say), `val`, `test`."""
    files: Mapping[str, bytes] = Field(default_factory=dict, exclude=True, repr=False)
    """Contents of the family's `files`, such as a tokeniser, which lie beside the schema and not in its JSON."""


class Batch(Protocol):
    """What `collate` makes of examples; a tensor is one."""

    def to(self, device: torch.device | str, /) -> Self:
        """The same batch on a device."""
        ...


PrepareConfigT = TypeVar("PrepareConfigT", default=Any)
ConfigT = TypeVar("ConfigT", bound=TrainConfig, default=Any)
SchemaT = TypeVar("SchemaT", bound=Schema, default=Any)
ExampleT = TypeVar("ExampleT", default=Any)
BatchT = TypeVar("BatchT", bound=Batch, default=Any)
NetworkT = TypeVar("NetworkT", bound=nn.Module, default=Any)
RequestT = TypeVar("RequestT", bound=BaseModel, default=Any)
ResponseT = TypeVar("ResponseT", bound=BaseModel, default=Any)
PredictionT = TypeVar("PredictionT", default=Any)
StateT = TypeVar("StateT", default=Any)
ConfigT_contra = TypeVar("ConfigT_contra", bound=TrainConfig, contravariant=True, default=Any)
SchemaT_contra = TypeVar("SchemaT_contra", bound=Schema, contravariant=True, default=Any)
NetworkT_contra = TypeVar("NetworkT_contra", bound=nn.Module, contravariant=True)
ExampleT_co = TypeVar("ExampleT_co", covariant=True, default=Any)


class Dataset(Protocol[ExampleT_co]):
    """Map-style examples of some shards of one split; memory-mapped, so that making one is cheap."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> ExampleT_co: ...


class OpenDataset(Protocol[ConfigT_contra, SchemaT_contra, ExampleT_co]):
    """Opens the examples of some shards of one split."""

    def __call__(
        self,
        data: Prepared,
        split: str,
        shards: Sequence[int],
        *,
        schema: SchemaT_contra,
        config: ConfigT_contra,
        epoch: int,
    ) -> Dataset[ExampleT_co]:
        """`schema` is the model's, which may be older than the data's; training epochs count from 1, others are 0."""
        ...


class Report(Protocol[NetworkT_contra, ConfigT_contra, SchemaT_contra]):
    """Adds to the report of an evaluation what a family has to say of a model beyond its metrics."""

    def __call__(
        self, network: NetworkT_contra, data: Prepared, split: str, *, schema: SchemaT_contra, config: ConfigT_contra
    ) -> Sequence[Section]:
        """Parts of the report, in order; `network` is in evaluation mode, `schema` and `config` are the model's.

        Bounded in time and size whatever the split's, and the same for the same model and data.
        """
        ...


Features = Mapping[str, Mapping[str, Any]]
"""Feature name -> key -> value, for the keys of one request that the store knows."""


@dataclass(frozen=True)
class Feature:
    """Something a request needs from the feature store before `encode`, e.g. a user's history."""

    name: str
    keys: Callable[[Any], Sequence[str]]
    """The keys that a request asks for; empty when it brings everything itself."""
    rows: Callable[[Prepared], Iterable[tuple[str, Any]]] | None = None
    """All (key, JSON value) pairs of prepared data, which `deploy` fills the store with. None for a feature that the
    endpoints write themselves, see `Endpoint.update`; `deploy` leaves it as it is."""


@dataclass(frozen=True)
class RawBody:
    """A request that may also come as a file, such as a picture: then its other fields are query parameters."""

    field: str
    """Field of the Request, of bytes, that the body is; in JSON it is base64."""
    media_types: tuple[str, ...]
    """Content types that are taken; what the bytes really are is for `encode` to see."""
    max_bytes: int
    """A larger body, of JSON too, is refused before it is read."""


class Media(BaseModel):
    """A response that is a file, such as speech; the service sends its content under its media type."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    content: bytes
    media_type: str


@dataclass(frozen=True, kw_only=True)
class AnyEndpoint(Generic[SchemaT, ExampleT_co, BatchT, NetworkT]):
    """An endpoint as the jobs and the service see it, whatever its request, predictions and response are.

    A family writes an `Endpoint`. Were its own types `Any` in `Family.endpoints`, mypy would take them for `Any` in an
    `Endpoint` that is written right there, and find no mistake in it.
    """

    path: str
    summary: str
    Request: type[Any]
    Response: type[Any]
    encode: Callable[[Any, SchemaT, Features], Sequence[ExampleT_co]]
    predict: Callable[[NetworkT, BatchT], Sequence[Any]]
    answer: Callable[[Any, Sequence[Any], SchemaT, str], Any]
    raw: RawBody | None = None
    """For a request that is mostly one file; its `encode` runs beside the other requests, for decoding takes time."""
    answer_timeout_s: float | None = None
    """For an `answer` that takes long, such as an optimizer of prices: it runs beside the other requests, and one that
    takes longer than this is answered 504, an error row in batch prediction. It should end by itself then: it goes on
    in its thread, there are few, and when all of them are stuck the next such request is answered 503 at once. None is
    for an `answer` of microseconds."""
    update: Callable[[Any, Sequence[Any], SchemaT, Features], Features] | None = None


@dataclass(frozen=True, kw_only=True)
class Endpoint(
    AnyEndpoint[SchemaT, ExampleT_co, BatchT, NetworkT],
    Generic[RequestT, ResponseT, SchemaT, ExampleT_co, BatchT, NetworkT, PredictionT],
):
    """One path of the service; the first of a family is also what batch prediction runs."""

    Request: type[RequestT]
    Response: type[ResponseT]
    """`Media`, or a subclass, where the answer is a file."""
    encode: Callable[[RequestT, SchemaT, Features], Sequence[ExampleT_co]]
    """The examples of a request: one, several, such as the items of a basket, or none. ValueError becomes HTTP 422, or
    an error row in batch prediction."""
    predict: Callable[[NetworkT, BatchT], Sequence[PredictionT]]
    """One prediction per example of a batch, in which the examples of several requests may stand."""
    answer: Callable[[RequestT, Sequence[PredictionT], SchemaT, str], ResponseT]
    """(request, its predictions in the order of its examples, schema, model version) -> response."""
    update: Callable[[RequestT, Sequence[PredictionT], SchemaT, Features], Features] | None = None
    """What the request writes to features without `rows`, e.g. a dialogue's state, under keys that the feature's `keys`
    name for it. All is written after `answer`, and only if each value is still what the request has read; else the
    request is done again with the new ones, a few times, and then answered 409. Batch prediction writes nothing."""


@dataclass(frozen=True, kw_only=True)
class AnyStream(Generic[SchemaT, ExampleT_co, BatchT, NetworkT]):
    """A stream as the service sees it, whatever its state and predictions are; a family writes a `Stream`."""

    path: str
    summary: str
    open: Callable[[SchemaT, str], Any]
    encode: Callable[[Any, str | bytes, SchemaT], Sequence[ExampleT_co]]
    predict: Callable[[NetworkT, BatchT], Sequence[Any]]
    answer: Callable[[Any, Sequence[Any], SchemaT], Sequence[BaseModel | bytes]]
    max_message_bytes: int = 1 << 20
    """A connection that sends more at once is closed with code 1009; the server itself takes 16 MiB at the most."""


@dataclass(frozen=True, kw_only=True)
class Stream(
    AnyStream[SchemaT, ExampleT_co, BatchT, NetworkT],
    Generic[StateT, SchemaT, ExampleT_co, BatchT, NetworkT, PredictionT],
):
    """A WebSocket of the service: messages from the client, messages back, and a state for each connection."""

    open: Callable[[SchemaT, str], StateT]
    """(schema, model version) -> the state of a new connection, which keeps this model until it is closed. What it is
    used for runs one after the other, though not always in one thread."""
    encode: Callable[[StateT, str | bytes, SchemaT], Sequence[ExampleT_co]]
    """The examples of one message, none while there is not enough to go by; ValueError is sent back as a problem."""
    predict: Callable[[NetworkT, BatchT], Sequence[PredictionT]]
    answer: Callable[[StateT, Sequence[PredictionT], SchemaT], Sequence[BaseModel | bytes]]
    """The messages that go back: JSON for a model, as they are for bytes; may change the state."""


@dataclass(frozen=True)
class Gate:
    """The limits a candidate must keep to be promoted."""

    slice_tolerance: float = 0.1
    """No slice of the test split may surely (p < 0.05) fall by more than this share of the champion's score there."""
    min_slice_examples: int = 100
    """Slices with fewer examples are reported but do not decide."""
    max_latency_ms: float = 50.0
    """Median time to answer the golden request, one thread."""
    max_size_mb: float = 500.0
    """Size of the model directory."""


@dataclass(frozen=True)
class Calibration(Generic[BatchT, NetworkT]):
    """What a network chooses on validation data after each epoch, such as a temperature or the weight of a blend."""

    sums: Callable[[NetworkT, BatchT], Tensor | None]
    """Sums over a validation batch, which add up over batches and workers; None where this network chooses nothing."""
    choose: Callable[[NetworkT, Tensor], None]
    """Set what is chosen, given `sums` added up over the whole validation split."""


@dataclass(frozen=True)
class Index(Generic[SchemaT, NetworkT]):
    """What a network makes of the prepared catalogue, for answers that name its entries."""

    write: Callable[[NetworkT, Prepared, SchemaT, Path], int]
    """Write it into a directory; returns the number of entries."""
    attach: Callable[[NetworkT, Path], None]
    """Give it to the network that is to answer; raises BundleRejected when it is damaged."""


@dataclass(frozen=True)
class Question:
    """A request to ask the demo's endpoint, and what is known about the right answer."""

    title: str
    request: Mapping[str, Any]
    """Fields of the first endpoint's Request."""
    right_answer: str


@dataclass(frozen=True)
class Sample:
    """A made-up raw log, small enough for a demo."""

    prepare: Mapping[str, Any]
    """Fields of PrepareConfig."""
    train: Mapping[str, Any]
    """Fields of Config for a training of seconds."""
    questions: Sequence[Question]


def _no_slices(batch: Any, schema: Any) -> Mapping[str, Sequence[str]]:
    return {}


def _no_summary(accumulators: Mapping[str, Tensor], schema: Any) -> Mapping[str, float]:
    return {}


def _nothing_to_initialise(network: Any, data: Prepared, schema: Any) -> None:
    return None


@dataclass(frozen=True, kw_only=True, eq=False)
class Family(Generic[PrepareConfigT, ConfigT, SchemaT, ExampleT, BatchT, NetworkT]):
    """A kind of model that a shop needs; the members without a default are what every family has.

    Raises ValueError, at import, for members that do not fit together.
    """

    name: str
    """As on the command line, `shopkeeper train recommender`."""
    metric: Metric
    """What sweeps and promotion follow: a ratio that `evaluate` gives, or a metric with a `compute`."""
    PrepareConfig: type[PrepareConfigT]
    """Frozen dataclass of the flags of `prepare`; has at least `raw: str`."""
    Config: type[ConfigT]
    """Frozen dataclass on TrainConfig; a docstring under each field is the flag's help."""
    Schema: type[SchemaT]
    prepare: Callable[[PrepareConfigT, Path, Executor], SchemaT]
    """Read the raw data once and fill an empty directory; returns the schema.

    Writes schema.json, card.json (counts for people: rows, bad rows by reason), quarantine/, the shards and `files`.
    Raises DataRejected when too much is bad; the caller removes the directory.
    """
    dataset: OpenDataset[ConfigT, SchemaT, ExampleT]
    collate: Callable[[Sequence[ExampleT]], BatchT]
    """The only place that makes tensors."""
    build: Callable[[ConfigT, SchemaT], NetworkT]
    """An untrained network; ValueError for settings that do not fit."""
    loss: Callable[[NetworkT, BatchT], Tensor]
    """The scalar loss of a training batch, a mean over its targets."""
    evaluate: Callable[[NetworkT, BatchT], BatchMetrics]
    """What a network scores on a batch of held-out examples."""
    endpoints: Sequence[AnyEndpoint[SchemaT, ExampleT, BatchT, NetworkT]]
    golden_request: Callable[[SchemaT], BaseModel]
    """A request to the first endpoint that every model of a schema can answer without the feature store."""

    space: Mapping[str, Range] = field(default_factory=lambda: {"learning_rate": LogUniform(3e-4, 3e-2)})
    """Field of Config -> the range that a sweep searches."""
    baselines: Mapping[str, ConfigT] = field(default_factory=dict)
    """Name -> a network that needs no training, which a first champion has to beat."""
    metrics: Sequence[Metric] = ()
    """The others, or all: how people are told of them, and those of the whole split with their `compute`. `accuracy`
    also describes `accuracy_colour`."""
    slices: Callable[[BatchT, SchemaT], Mapping[str, Sequence[str]]] = _no_slices
    """Slice dimension -> one label per example, for evaluation by groups."""
    summarise: Callable[[Mapping[str, Tensor], SchemaT], Mapping[str, float]] = _no_summary
    """Metrics of the whole split from the summed accumulators, e.g. catalogue coverage."""
    initialise: Callable[[NetworkT, Prepared, SchemaT], None] = _nothing_to_initialise
    """Set what is learnt without gradients (priors, spectral starts); runs once, on one worker."""
    update_statistics: Callable[[NetworkT, Prepared, SchemaT], None] | None = None
    """Re-estimate after each epoch what follows from weights and training data without a gradient, such as batch-norm
    statistics; runs on one worker, and the others get its buffers."""
    calibration: Calibration[BatchT, NetworkT] | None = None
    optimizer: Callable[[NetworkT], Optimizer | None] | None = None
    """The optimizer of a network that the loop's AdamW does not suit, or None for AdamW.

    The loop sets the `lr` of every group: the scheduled rate times the group's `rate_scale`, if it has one. The
    optimizer's state must be tensors.
    """
    lengths: Callable[[Dataset[ExampleT]], Sequence[int]] | None = None
    """Length of each training example; given, batches hold examples of similar length, so that little is padded."""
    features: Sequence[Feature] = ()
    streams: Sequence[AnyStream[SchemaT, ExampleT, BatchT, NetworkT]] = ()
    files: tuple[str, ...] = ()
    """Names of files that `prepare` writes beside the schema, such as a tokeniser; every bundle carries them, with
    their sha256, and `Schema.files` has their contents."""
    index: Index[SchemaT, NetworkT] | None = None
    report: Report[NetworkT, ConfigT, SchemaT] | None = None
    caveat: str = ""
    """What an evaluation on past data cannot tell, for people who read the report."""
    gate: Gate = Gate()
    route_prefix: str = "/"
    """Where the family's application is mounted; the paths of its endpoints start with it."""
    sample: Callable[[Path], Sample] | None = None
    """Write a made-up raw log into a directory; `demo` needs it."""

    def __post_init__(self) -> None:
        settings = {each.name for each in dataclasses.fields(self.Config)}
        if unknown := sorted(set(self.space) - settings):
            raise ValueError(f"the space of {self.name} searches {unknown[0]!r}, which is no field of its Config")
        if not self.endpoints:
            raise ValueError(f"{self.name} has no endpoint; the first one is also what `predict` runs")
        if any(each.update for each in self.endpoints) and all(each.rows for each in self.features):
            raise ValueError(f"{self.name} has an endpoint that updates features, and no feature without rows to write")
        paths = [each.path for each in self.endpoints] + [each.path for each in self.streams]
        prefix = self.route_prefix.rstrip("/") + "/"
        for path in paths:
            if not path.startswith(prefix) or paths.count(path) > 1:
                raise ValueError(f"the path {path} of {self.name} must start with {prefix} and be there once")
        names = [each.name for each in self.all_metrics]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{self.name} has more than one metric {repeated[0]!r}")

    @property
    def all_metrics(self) -> tuple[Metric, ...]:
        """The metric that is followed, then the others."""
        return (self.metric, *(each for each in self.metrics if each != self.metric))
