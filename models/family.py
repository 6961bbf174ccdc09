"""The contract of a family of models with the jobs and the service that work on any family: one typed value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypeVar

from models.checks import check_family
from models.config import LogUniform, Range, TrainConfig
from models.erasure.contract import Erasure
from models.events.hook import EventUse
from models.items.hook import LiveItems
from models.media import Media as Media
from models.metric import BatchMetrics, Metric
from models.prepared import Prepared
from models.report import Section
from models.sample import Sample

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.optim import Optimizer


class Schema(BaseModel):
    """What a network and an endpoint must know of the data: fixed by `prepare`, stored in every bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    """Name of the family."""
    fingerprint: str
    """sha256 of the prepared rows and split rule; equal rows give an equal fingerprint."""
    num_shards: int
    """Shards of the prepared data, 0 .. num_shards - 1; a worker reads every world-size-th one."""
    num_examples: dict[str, int]
    """Examples in each split: `train` (rows of events, say), `val`, `test`."""
    files: Mapping[str, bytes] = Field(default_factory=dict, exclude=True, repr=False)
    """Contents of the family's `files`, such as a tokeniser; stored next to the schema and not in its JSON."""


class Batch(Protocol):
    """What `collate` makes of examples, such as a tensor."""

    def to(self, device: torch.device | str, /) -> Self:
        """The same batch on a device."""
        ...


PrepareConfigT = TypeVar("PrepareConfigT", default=Any)
ConfigT = TypeVar("ConfigT", bound=TrainConfig, default=Any)
SchemaT = TypeVar("SchemaT", bound=Schema, default=Any)
ExampleT = TypeVar("ExampleT", default=Any)
BatchT = TypeVar("BatchT", bound=Batch, default=Any)
NetworkT = TypeVar("NetworkT", bound="nn.Module", default=Any)
RequestT = TypeVar("RequestT", bound=BaseModel, default=Any)
ResponseT = TypeVar("ResponseT", bound=BaseModel, default=Any)
PredictionT = TypeVar("PredictionT", default=Any)
StateT = TypeVar("StateT", default=Any)
ConfigT_contra = TypeVar("ConfigT_contra", bound=TrainConfig, contravariant=True, default=Any)
SchemaT_contra = TypeVar("SchemaT_contra", bound=Schema, contravariant=True, default=Any)
NetworkT_contra = TypeVar("NetworkT_contra", bound="nn.Module", contravariant=True)
ExampleT_co = TypeVar("ExampleT_co", covariant=True, default=Any)


class Dataset(Protocol[ExampleT_co]):
    """Map-style dataset of some shards of one split; memory-mapped, so that opening it is cheap."""

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
    """Adds a family's own sections to the report of an evaluation, beyond the metrics."""

    def __call__(
        self, network: NetworkT_contra, data: Prepared, split: str, *, schema: SchemaT_contra, config: ConfigT_contra
    ) -> Sequence[Section]:
        """Sections of the report, in order; `network` is in evaluation mode, `schema` and `config` are the model's.

        Bounded in time and size for any split, and deterministic.
        """
        ...


Features = Mapping[str, Mapping[str, Any]]
"""Feature name -> key -> value, for the keys of one request that are in the store."""


@dataclass(frozen=True)
class Feature:
    """Something a request needs from the feature store before `encode`, e.g. a user's history."""

    name: str
    keys: Callable[[Any], Sequence[str]]
    """The keys that a request needs; empty when the request carries the values itself."""
    rows: Callable[[Prepared], Iterable[tuple[str, Any]]] | None = None
    """All (key, JSON value) pairs of prepared data, which `deploy` writes to the store. None for a feature that the
    endpoints write themselves, see `Endpoint.update`; `deploy` does not touch it."""
    can_be_missing: bool = False
    """Whether a `fallback` may answer as if its keys were missing: true for a history, not for what a filter allows."""
    is_personal: bool = False
    """The keys are user ids: the values of erased users are deleted, and neither read nor written any more."""


@dataclass(frozen=True)
class RawBody:
    """A request that may also be sent as a file, such as an image; its other fields are then query parameters."""

    field: str
    """Field of the Request, of type bytes, for the body; base64 in JSON."""
    media_types: tuple[str, ...]
    """Accepted content types; `encode` checks the actual bytes."""
    max_bytes: int
    """A larger body, including JSON, is rejected before it is read."""


@dataclass(frozen=True, kw_only=True)
class AnyEndpoint(Generic[SchemaT, ExampleT_co, BatchT, NetworkT]):
    """An endpoint as the jobs and the service see it, for any types of request, predictions and response.

    A family defines an `Endpoint`. If `Family.endpoints` had `Any` for these types, mypy would infer `Any` for an
    `Endpoint` that is written inside a family, and find no mistake in it.
    """

    path: str
    summary: str
    Request: type[Any]
    Response: type[Any]
    encode: Callable[[Any, SchemaT, Features], Sequence[ExampleT_co]]
    predict: Callable[[NetworkT, BatchT], Sequence[Any]]
    answer: Callable[[Any, Sequence[Any], SchemaT, str], Any]
    raw: RawBody | None = None
    """For a request that is mostly one file; its `encode` runs in parallel to other requests: decoding takes time."""
    answer_timeout_s: float | None = None
    """For an `answer` that takes long, such as a price optimizer: it runs in parallel to other requests, and past this
    time the response is 504, an error row in batch prediction. It should then end by itself: it goes on in one of few
    threads, and when all of them are stuck the next such request gets 503 at once. None is for an `answer` of
    microseconds."""
    update: Callable[[Any, Sequence[Any], SchemaT, Features], Features] | None = None
    fallback: Callable[[Any], Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Endpoint(
    AnyEndpoint[SchemaT, ExampleT_co, BatchT, NetworkT],
    Generic[RequestT, ResponseT, SchemaT, ExampleT_co, BatchT, NetworkT, PredictionT],
):
    """One path of the service; batch prediction runs the first one of a family."""

    Request: type[RequestT]
    Response: type[ResponseT]
    """`Media`, or a subclass, where the answer is a file."""
    encode: Callable[[RequestT, SchemaT, Features], Sequence[ExampleT_co]]
    """The examples of a request: one, several, such as the items of a basket, or none. ValueError becomes HTTP 422, or
    an error row in batch prediction."""
    predict: Callable[[NetworkT, BatchT], Sequence[PredictionT]]
    """One prediction per example of a batch, which may have examples of several requests."""
    answer: Callable[[RequestT, Sequence[PredictionT], SchemaT, str], ResponseT]
    """(request, the predictions of its examples in order, schema, model version) -> response."""
    update: Callable[[RequestT, Sequence[PredictionT], SchemaT, Features], Features] | None = None
    """What the request writes to features without `rows`, e.g. a dialogue's state, under keys that the feature's `keys`
    gives for it. Everything is written after `answer`, and only if no value has changed since it was read. Requests to
    one replica with the same keys take turns; one that loses a race with another replica is repeated with the new
    values, a few times, and then gets 409. Batch prediction writes nothing."""
    fallback: Callable[[ResponseT], ResponseT] | None = None
    """Marks the response to a request that was answered without stored features because their store cannot be read, as
    if they were missing (see `Feature.can_be_missing`). None where that would be wrong: the request then gets 503."""


@dataclass(frozen=True, kw_only=True)
class AnyStream(Generic[SchemaT, ExampleT_co, BatchT, NetworkT]):
    """A stream as the service sees it, for any types of state and predictions; a family defines a `Stream`."""

    path: str
    summary: str
    open: Callable[[SchemaT, str], Any]
    encode: Callable[[Any, str | bytes, SchemaT], Sequence[ExampleT_co]]
    predict: Callable[[NetworkT, BatchT], Sequence[Any]]
    answer: Callable[[Any, Sequence[Any], SchemaT], Sequence[BaseModel | bytes]]
    max_message_bytes: int = 1 << 20
    """A connection that sends a larger message is closed with code 1009; the server's own limit is 16 MiB."""


@dataclass(frozen=True, kw_only=True)
class Stream(
    AnyStream[SchemaT, ExampleT_co, BatchT, NetworkT],
    Generic[StateT, SchemaT, ExampleT_co, BatchT, NetworkT, PredictionT],
):
    """A WebSocket of the service: messages in both directions, and a state for each connection."""

    open: Callable[[SchemaT, str], StateT]
    """(schema, model version) -> the state of a new connection, which uses this model until it is closed. Calls with
    the state are sequential, but not always in the same thread."""
    encode: Callable[[StateT, str | bytes, SchemaT], Sequence[ExampleT_co]]
    """The examples of one message, none while it needs more messages; ValueError is sent back as a problem."""
    predict: Callable[[NetworkT, BatchT], Sequence[PredictionT]]
    answer: Callable[[StateT, Sequence[PredictionT], SchemaT], Sequence[BaseModel | bytes]]
    """The messages to send back, models as JSON and bytes unchanged; may change the state."""


@dataclass(frozen=True)
class Gate:
    """The limits that a candidate must meet to be promoted."""

    slice_tolerance: float = 0.1
    """No slice may be significantly below its floor, and by more than this share of it. The floor is the score there of
    the best baseline but the first, or of the champion for a family without other baselines."""
    baseline_tolerance: float = 0.1
    """The metric may not be below the best baseline's by more than this share, nor significantly by any."""
    min_slice_examples: int = 100
    """Slices with fewer examples are reported but not checked."""
    max_latency_ms: float = 50.0
    """Median latency of the golden request on one thread."""
    max_size_mb: float = 500.0
    """Size of the model directory."""


@dataclass(frozen=True)
class Calibration(Generic[BatchT, NetworkT]):
    """Parameters that are set on validation data after each epoch, such as a temperature or a blend weight."""

    sums: Callable[[NetworkT, BatchT], Tensor | None]
    """Sums over a validation batch, added over batches and workers; None if this network has no such parameters."""
    choose: Callable[[NetworkT, Tensor], None]
    """Set the parameters, given `sums` added over the whole validation split."""


@dataclass(frozen=True)
class Index(Generic[SchemaT, NetworkT]):
    """An index that a network computes from the prepared catalogue, for answers that refer to its entries."""

    write: Callable[[NetworkT, Prepared, SchemaT, Path], int]
    """Write the index to a directory; returns the number of entries."""
    attach: Callable[[NetworkT, Path], None]
    """Attach the index to a network; raises BundleRejected when it is damaged."""


def _no_slices(batch: Any, schema: Any) -> Mapping[str, Sequence[str]]:
    return {}


def _no_summary(accumulators: Mapping[str, Tensor], schema: Any) -> Mapping[str, float]:
    return {}


def _nothing_to_initialise(network: Any, data: Prepared, schema: Any) -> None:
    return None


def _fits(schema: Any, data: Any) -> None:
    return None


def _unchanged(config: Any, schema: Any) -> Any:
    return config


def _no_pretraining(config: Any) -> int:
    return 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Family(Generic[PrepareConfigT, ConfigT, SchemaT, ExampleT, BatchT, NetworkT]):
    """A kind of model that a shop needs; members without a default are required.

    Raises ValueError, at import, for inconsistent members.
    """

    name: str
    """Name on the command line, as in `shopkeeper train recommender`."""
    metric: Metric
    """The metric that sweeps and promotion optimise: a ratio from `evaluate`, or a metric with a `compute`."""
    PrepareConfig: type[PrepareConfigT]
    """Frozen dataclass of the flags of `prepare`, with at least `raw: str`."""
    Config: type[ConfigT]
    """Frozen dataclass derived from TrainConfig; the docstring under a field is the flag's help."""
    Schema: type[SchemaT]
    prepare: Callable[[PrepareConfigT, Path, Executor], SchemaT]
    """Read the raw data once and fill an empty directory; returns the schema.

    Writes schema.json, card.json (counts of rows, bad rows by reason), quarantine/, the shards and `files`. Raises
    DataRejected when too many rows are bad; the caller removes the directory.
    """
    dataset: OpenDataset[ConfigT, SchemaT, ExampleT]
    collate: Callable[[Sequence[ExampleT]], BatchT]
    """Turn examples into a batch; the only place that makes tensors."""
    build: Callable[[ConfigT, SchemaT], NetworkT]
    """An untrained network; ValueError for settings that do not fit together."""
    loss: Callable[[NetworkT, BatchT], Tensor]
    """The scalar loss of a training batch, averaged over its targets."""
    evaluate: Callable[[NetworkT, BatchT], BatchMetrics]
    """Metrics of a network on a batch of held-out examples."""
    endpoints: Sequence[AnyEndpoint[SchemaT, ExampleT, BatchT, NetworkT]]
    golden_request: Callable[[SchemaT], BaseModel]
    """A request to the first endpoint that any model with this schema can answer without the feature store."""

    space: Mapping[str, Range] = field(default_factory=lambda: {"learning_rate": LogUniform(3e-4, 3e-2)})
    """Field of Config -> the range that a sweep searches."""
    unused_settings: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Network -> fields of Config that have no effect on it, which a run does not log as its params."""
    baselines: Mapping[str, ConfigT] = field(default_factory=dict)
    """Name -> a network without training that a candidate is compared with. The first is the trivial one, such as
    popularity or class frequencies, which every candidate has to beat; it may not be worse than the best of the others,
    overall and in any slice."""
    resolve: Callable[[ConfigT, SchemaT], ConfigT] = _unchanged
    """Choose the settings that are left at auto by the data; a run trains with, and logs, what it returns."""
    metrics: Sequence[Metric] = ()
    """The other metrics, or all: titles and explanations, and those of the whole split with a `compute`. `accuracy`
    also describes `accuracy_colour`."""
    slices: Callable[[BatchT, SchemaT], Mapping[str, Sequence[str]]] = _no_slices
    """Slice dimension -> one label per example, for evaluation by slice."""
    slice_order: Sequence[str] = ()
    """Labels of all dimensions in the order of a report; others come first, the largest slice before the others."""
    summarise: Callable[[Mapping[str, Tensor], SchemaT], Mapping[str, float]] = _no_summary
    """Metrics of the whole split from the summed accumulators, e.g. catalogue coverage."""
    initialise: Callable[[NetworkT, Prepared, SchemaT], None] = _nothing_to_initialise
    """Set what is not trained by gradients (priors, spectral embeddings); runs once, on one worker."""
    pretraining_epochs: Callable[[ConfigT], int] = _no_pretraining
    """How many of the config's `epochs`, the first ones, pretrain on what `dataset` gives for them, with a schedule of
    their own; early stopping counts from their end. All parameters need gradients in both phases, which may be zero."""
    update_statistics: Callable[[NetworkT, Prepared, SchemaT], None] | None = None
    """Re-estimate after each epoch what depends on weights and training data without a gradient, such as batch-norm
    statistics; runs on one worker, which broadcasts its buffers to the others."""
    calibration: Calibration[BatchT, NetworkT] | None = None
    optimizer: Callable[[NetworkT], Optimizer | None] | None = None
    """The optimizer of a network, or None for the loop's AdamW; its state must consist of tensors.

    The loop sets the `lr` of every group: the scheduled rate times the group's `rate_scale`, if it has one.
    """
    lengths: Callable[[Dataset[ExampleT]], Sequence[int]] | None = None
    """Length of each training example; if given, batches have examples of similar length, to limit padding."""
    features: Sequence[Feature] = ()
    check_data: Callable[[SchemaT, SchemaT], None] = _fits
    """(the model's schema, the data's) -> None; ValueError where the model cannot be used with the features of such
    data, as one of months with those of days. `deploy` and `predict` call it, and `dataset` should."""
    erasure: Erasure[PrepareConfigT, SchemaT] | None = None
    events: EventUse | None = None
    """How events that shops send change the features of requests; None for a family that takes none."""
    items: LiveItems | None = None
    """How items that are put between two trainings reach the endpoints, if the family has any."""
    streams: Sequence[AnyStream[SchemaT, ExampleT, BatchT, NetworkT]] = ()
    files: tuple[str, ...] = ()
    """Names of files that `prepare` writes next to the schema, such as a tokeniser; every bundle contains them, with
    their sha256, and `Schema.files` has their contents."""
    index: Index[SchemaT, NetworkT] | None = None
    report: Report[NetworkT, ConfigT, SchemaT] | None = None
    caveat: str = ""
    """What an evaluation on past data cannot show, for readers of the report."""
    gate: Gate = Gate()
    route_prefix: str = "/"
    """Where the family's application is mounted; the paths of its endpoints start with it."""
    sample: Callable[[Path], Sample] | None = None
    """Write a synthetic raw log to a directory; required by `demo`."""

    def __post_init__(self) -> None:
        check_family(self)

    @property
    def all_metrics(self) -> tuple[Metric, ...]:
        """`metric`, then the others."""
        return (self.metric, *(each for each in self.metrics if each != self.metric))

    def slice_rank(self, label: str) -> int:
        """The place of a label in `slice_order`; -1 for others."""
        return list(self.slice_order).index(label) if label in self.slice_order else -1

    def used_settings(self, config: ConfigT) -> dict[str, Any]:
        """The fields of a config that have an effect on its network."""
        unused = self.unused_settings.get(str(getattr(config, "network", "")), ())
        return {each.name: getattr(config, each.name) for each in fields(config) if each.name not in unused}

    @property
    def models_path(self) -> str:
        """The path at which the service reports the model in use."""
        return f"{self.route_prefix.rstrip('/') or '/v1'}/models"
