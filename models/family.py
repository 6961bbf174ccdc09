"""The contract between a family of models and the jobs and the service that work on any family."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from torch.optim import Optimizer

from models.report import Section
from models.settings import Share, check_settings


class DataRejected(ValueError):
    """Raw data that cannot be prepared; the message names the value and the remedy."""


class BundleRejected(ValueError):
    """A model directory that is damaged, foreign or not ours; the message says which file and why."""


@dataclass(frozen=True)
class Metric:
    """What sweeps and promotion follow, e.g. `Metric("ndcg_at_10", "max")`."""

    name: str
    mode: Literal["max", "min"]

    def better(self, value: float, than: float) -> bool:
        """Whether `value` beats `than`; a NaN beats nothing."""
        return value > than if self.mode == "max" else value < than


@dataclass(frozen=True)
class Ratio:
    """A metric of a batch as two vectors of shape [B]: summed over all examples, divided once.

    An example whose denominator is 0 does not take part.
    """

    numerator: Tensor
    denominator: Tensor


@dataclass(frozen=True)
class Judgement:
    """What a network says of a batch of held-out examples."""

    metrics: Mapping[str, Ratio]
    """Name -> a ratio of two tensors of shape [B]."""
    tallies: Mapping[str, Tensor]
    """Tensors that add up over batches and workers for metrics of the whole, such as coverage; may be empty."""


@dataclass(frozen=True)
class LogUniform:
    """A range of a sweep, even on a logarithmic scale."""

    low: float
    high: float


@dataclass(frozen=True)
class Uniform:
    """A range of a sweep, even on a linear scale."""

    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """The options of a sweep's dimension."""

    options: tuple[Any, ...]


Range = LogUniform | Uniform | Choice


@dataclass(frozen=True)
class TrainConfig:
    """What the one training loop needs of every family; a family's `Config` adds its own fields.

    Raises ValueError, which names the flag, for a value that its type does not allow.
    """

    seed: NonNegativeInt = 0
    """Seed of every random number; the same seed, data and versions give the same run."""
    epochs: PositiveInt = 10
    """Passes over the training split at the most."""
    batch_size: PositiveInt = 64
    """Training examples in one optimiser step, over all workers together."""
    learning_rate: PositiveFloat = 3e-3
    """Highest learning rate, reached after the warm-up, then lowered along a cosine to a hundredth of it."""
    warmup_fraction: Share = 0.1
    """Share of all steps in which the learning rate rises from zero."""
    weight_decay: NonNegativeFloat = 0.01
    """AdamW's decay of matrices; vectors, biases and embeddings are not decayed."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients are scaled down to this norm."""
    patience: NonNegativeInt = 3
    """Stop after this many epochs in a row without a better validation score; 0 never stops early."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the forward and backward pass; auto is bf16 where the processor multiplies it natively."""

    def __post_init__(self) -> None:
        check_settings(self)


class Schema(BaseModel):
    """What a network and an endpoint must know of the data: fixed by `prepare`, stored in every bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    """Name of the family in `FAMILIES`."""
    fingerprint: str
    """sha256 of the prepared rows and split rule; equal rows give an equal fingerprint."""
    num_shards: int
    """The prepared data lies in shards 0 .. num_shards - 1; a worker reads every world-size-th one."""
    num_examples: dict[str, int]
    """Examples in each split: `train` (rows of events, say), `val`, `test`."""


class Dataset(Protocol):
    """Map-style examples of some shards of one split; memory-mapped, so that making one is cheap."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...


@runtime_checkable
class Network(Protocol):
    """A torch module that is trained, judged and served; `batch` is what the family's `collate` makes.

    `forward` gives the scalar loss of a batch, a mean over its targets.
    """

    def forward(self, batch: Any) -> Tensor: ...

    def judge(self, batch: Any) -> Judgement:
        """Metrics of each example and tallies of all of them, from one pass over the batch."""
        ...

    def calibration(self, batch: Any) -> Tensor | None:
        """Sums over a validation batch from which `calibrate` chooses, e.g. hits per blend weight; None if nothing."""
        ...

    def calibrate(self, sums: Tensor) -> None:
        """Set what is chosen on validation data, given `calibration` summed over all batches and workers."""
        ...

    def predict(self, batch: Any) -> list[Any]:
        """One answer per example, plain Python or numpy values."""
        ...


@dataclass(frozen=True)
class Feature:
    """Something a request needs from the feature store before `encode`, e.g. a shopper's history."""

    name: str
    keys: Callable[[Any], Sequence[str]]
    """The keys that a request asks for; empty when it brings everything itself."""
    rows: Callable[[Path], Iterable[tuple[str, Any]]]
    """All (key, JSON value) pairs of a prepared data directory; `deploy` fills the store with them."""


Features = Mapping[str, Mapping[str, Any]]
"""Feature name -> key -> value, for the keys of one request that the store knows."""


@dataclass(frozen=True)
class RawBody:
    """A request that may also come as a file, such as a picture: then its other fields are query parameters."""

    field: str
    """Field of the Request, of bytes, that the body is; in JSON it is base64."""
    media_types: tuple[str, ...]
    """Content types that are taken; what the bytes really are is for `encode` to see."""
    max_bytes: int
    """A larger body, of JSON too, is refused before it is read."""


@dataclass(frozen=True)
class Endpoint:
    """One path of the service; the first of a family is also what batch prediction runs."""

    path: str
    summary: str
    Request: type[BaseModel]
    Response: type[BaseModel]
    encode: Callable[[Any, Any, Features], Any]
    """(request, schema, features) -> example; ValueError becomes HTTP 422, or an error row in batch."""
    predict: Callable[[Any, Any], list[Any]]
    """(network, batch) -> one prediction per example."""
    answer: Callable[[Any, Any, Any, str], BaseModel]
    """(request, prediction, schema, model_version) -> Response."""
    raw: RawBody | None = None
    """For a request that is mostly one file; its `encode` is run beside the other requests, for decoding takes time."""


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


@runtime_checkable
class HasSample(Protocol):
    """A family that can make up a raw log; optional, `demo` needs it."""

    def sample(self, directory: Path) -> Sample:
        """Write the raw log into a directory."""
        ...


@runtime_checkable
class HasOptimizer(Protocol):
    """A network that some of its settings train better with another optimiser than the loop's AdamW; optional."""

    def optimizer(self) -> Optimizer | None:
        """The optimiser, or None for the loop's own.

        The loop sets the `lr` of every group: the scheduled rate times the group's `rate_scale`, if it has one. The
        optimiser's state must be tensors.
        """
        ...


@runtime_checkable
class HasIndex(Protocol):
    """A family whose answers name entries of a catalogue that the network itself has read; optional."""

    def write_index(self, network: Any, data: Path, schema: Any, directory: Path) -> int:
        """Write what a network makes of the prepared catalogue into a directory; returns the number of entries."""
        ...

    def attach_index(self, network: Any, directory: Path) -> None:
        """Give it to the network that is to answer; raises BundleRejected when it is damaged."""
        ...


@runtime_checkable
class HasReport(Protocol):
    """A family that has more to say of a model than its metrics; optional, `evaluate` puts it into the report."""

    def sections(self, network: Any, data: Path, split: str, *, schema: Any, config: Any) -> Sequence[Section]:
        """Parts of the report, in order; `network` is in evaluation mode, `schema` and `config` are the model's.

        Bounded in time and size whatever the split's, and the same for the same model and data.
        """
        ...


@runtime_checkable
class HasStatistics(Protocol):
    """A family whose networks hold numbers that follow from their weights and the data, with no gradient; optional."""

    def settle(self, network: Any, data: Path, schema: Any) -> None:
        """Set them from training examples; runs after each epoch on one worker, and the others get its buffers."""
        ...


class Family(Protocol):
    """A module (or package) of `models/` that the jobs and the service can work with."""

    @property
    def NAME(self) -> str: ...
    @property
    def METRIC(self) -> Metric: ...
    @property
    def SPACE(self) -> Mapping[str, Range]: ...
    @property
    def GATE(self) -> Gate: ...
    @property
    def ROUTE_PREFIX(self) -> str:
        """Where the family's application is mounted, e.g. "/"; the paths of its endpoints start with it."""
        ...

    @property
    def ENDPOINTS(self) -> Sequence[Endpoint]: ...
    @property
    def FEATURES(self) -> Sequence[Feature]: ...
    @property
    def BASELINES(self) -> Mapping[str, Mapping[str, Any]]:
        """Name -> fields of Config: networks that need no training, which a first champion has to beat."""
        ...

    @property
    def Config(self) -> Any:
        """Frozen dataclass on TrainConfig; a docstring under each field is the flag's help."""
        ...

    @property
    def PrepareConfig(self) -> Any:
        """Frozen dataclass of the flags of `prepare`; has at least `raw: str`."""
        ...

    @property
    def Schema(self) -> type[Schema]: ...

    def prepare(self, config: Any, out: Path, executor: Executor) -> Any:
        """Read the raw data once and fill the empty directory `out`; returns the Schema.

        Writes schema.json, card.json (counts for people: rows, bad rows by reason), quarantine/ and the shards.
        Raises DataRejected when too much is bad; the caller removes `out`.
        """
        ...

    def dataset(self, data: Path, split: str, shards: Sequence[int], *, schema: Any, config: Any, epoch: int) -> Any:
        """Examples of some shards; `schema` is the model's, which may be older than the data's."""
        ...

    def build(self, config: Any, schema: Any) -> Any:
        """An untrained Network."""
        ...

    def initialise(self, network: Any, data: Path, schema: Any) -> None:
        """Set what is learnt without gradients (priors, spectral starts); runs once, on one worker."""
        ...

    def collate(self, examples: Sequence[Any]) -> Any:
        """The only place that makes tensors; a batch has `.to(device)`."""
        ...

    def slices(self, batch: Any, schema: Any) -> Mapping[str, Sequence[str]]:
        """Slice dimension -> one label per example, for judging by groups."""
        ...

    def summarise(self, tallies: Mapping[str, Tensor], schema: Any) -> Mapping[str, float]:
        """Metrics of the whole from the summed tallies, e.g. catalogue coverage."""
        ...

    def golden_request(self, schema: Any) -> BaseModel:
        """A request that every model of this schema can answer without the feature store."""
        ...
