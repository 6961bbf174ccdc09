"""The Ray Serve config of a store: rendered, validated and written atomically."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from jobs.cli.context import Failure, Store, UsageFailure
from models.family import Family
from models.files import is_same_directory, write_text

PINNED = Path("serve", "models")
"""Directory of pinned models in a store, by family and version."""
PATHS = (
    "bundle",
    "feature_store",
    "live_feature_store",
    "index",
    "events",
    "erased",
    "items",
    "keys",
    "metrics",
    "cluster",
    "request_log",
    "salt",
)
"""Settings of a deployment that are paths in the store; `events` may be another address."""
MODEL_SETTINGS = ("version", "bundle", "digest", "index")
"""Settings of a deployment that say which model is served; its standby has the same."""
BUILDER = "serve.app:build"
DEPLOYMENT = "Model"
REQUESTS_PER_REPLICA = 16
"""Autoscaling target: mean number of ongoing requests per replica."""
MAX_ONGOING_REQUESTS = 64
MAX_QUEUED_REQUESTS = 256
"""Maximum queue length; further requests get 503 immediately."""


@dataclass(frozen=True)
class PinnedModel:
    """A model directory in the store, pinned to a version."""

    version: str
    directory: Path
    digest: str


@dataclass(frozen=True)
class Size:
    """Replicas of an application and the resources of each."""

    min_replicas: int = 1
    max_replicas: int = 2
    cpus: float = 1.0
    gpus: float = 0.0


def application(
    family: Family,
    model: PinnedModel,
    *,
    feature_store: Path | None,
    size: Size,
    index: Path | None = None,
    live_feature_store: Path | None = None,
    events: str | None = None,
    erased: Path | None = None,
    items: Path | None = None,
    standby: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The Serve application config of a family; `standby` is the model to keep loaded for a rollback."""
    paths = {"feature_store": feature_store, "live_feature_store": live_feature_store, "index": index, "erased": erased}
    settings = _settings(model, {**paths, "events": events, "items": items})
    deployment = {
        "name": DEPLOYMENT,
        "user_config": {**settings, "standby": dict(standby) if standby else None},
        "autoscaling_config": _autoscaling(size),
        "max_ongoing_requests": MAX_ONGOING_REQUESTS,
        "max_queued_requests": MAX_QUEUED_REQUESTS,
        "backpressure_config": {"status_code": 503, "retry_after_s": 1.0},
        # On a code change, new replicas start before old ones stop; a new model reuses the replicas.
        "max_surge_percent": 100,
        "health_check_period_s": 5.0,
        "health_check_timeout_s": 10.0,
        "graceful_shutdown_wait_loop_s": 1.0,
        "graceful_shutdown_timeout_s": 20.0,
        "ray_actor_options": {"num_cpus": size.cpus, "num_gpus": size.gpus},
    }
    return {
        "name": family.name,
        "route_prefix": family.route_prefix,
        "import_path": BUILDER,
        "args": {"family": family.name, "num_threads": max(1, int(size.cpus))},
        "deployments": [deployment],
    }


def _settings(model: PinnedModel, stores: Mapping[str, Path | str | None]) -> dict[str, Any]:
    return {
        "version": model.version,
        "bundle": str(model.directory),
        "digest": model.digest,
        **{name: str(place) if place else None for name, place in stores.items()},
    }


def _autoscaling(size: Size) -> dict[str, Any]:
    replicas = {"min_replicas": size.min_replicas, "max_replicas": size.max_replicas}
    return {**replicas, "target_ongoing_requests": REQUESTS_PER_REPLICA}


def empty_config(*, host: str, port: int) -> dict[str, Any]:
    """A Serve config without applications."""
    return {
        "proxy_location": "HeadOnly",
        # Serve's own request timeout would also close WebSockets; the service has its own, which does not.
        "http_options": {"host": host, "port": port, "request_timeout_s": None, "keep_alive_timeout_s": 75},
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        "applications": [],
    }


def with_application(config: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """The config with an application added or replaced; raises UsageFailure if another one has its route."""
    others = [one for one in config["applications"] if one["name"] != added["name"]]
    for other in others:
        if other["route_prefix"] == added["route_prefix"]:
            raise UsageFailure(
                f"{other['name']} is already deployed at {other['route_prefix']!r}; "
                f"give the family {added['name']} a route_prefix of its own, or use another store"
            )
    return {**config, "applications": [*others, dict(added)]}


def application_of(config: Mapping[str, Any] | None, family: Family) -> dict[str, Any] | None:
    """A family's application, or None."""
    applications: list[dict[str, Any]] = list((config or {}).get("applications", ()))
    return next((one for one in applications if one["name"] == family.name), None)


def user_config(config: Mapping[str, Any] | None, family: Family) -> dict[str, Any]:
    """The `user_config` of a family's deployment; empty if there is none."""
    found = application_of(config, family)
    settings: dict[str, Any] = found["deployments"][0]["user_config"] if found else {}
    return settings


def with_settings(config: Mapping[str, Any], family: Family, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The config with other values of some of a family's settings."""
    changed: dict[str, Any] = copy.deepcopy(dict(config))
    user_config(changed, family).update(settings)
    return changed


def next_standby(served: Mapping[str, Any], *, version: str, digest: str | None) -> dict[str, Any] | None:
    """The standby of a deployment that replaces `served`: the model that it serves, or keeps if it serves this one."""
    if not served:
        return None
    is_same = (served["version"], served.get("digest")) == (version, digest)
    previous = served.get("standby") if is_same else {name: served.get(name) for name in MODEL_SETTINGS}
    return dict(previous) if previous else None


def check_config(config: Mapping[str, Any]) -> None:
    """Validate a config strictly; raises Failure also for unknown keys, which Serve itself ignores."""
    from ray.serve.schema import ServeDeploySchema

    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        raise Failure(f"invalid Serve config: {error}") from error
    unknown = _unknown(ServeDeploySchema, config, "")
    if unknown:
        raise Failure(f"unknown key {unknown} in the Serve config; correct or remove it")


def config_path(store: Store) -> Path:
    """Path of the Serve config that was applied last."""
    return store.serve / "config.yaml"


def read_config(path: Path, *, check: bool = True) -> dict[str, Any] | None:
    """The config that was applied last, or None; raises Failure if the file is damaged.

    Its paths are those of the store as it is now, even if it was moved or copied since. The check of its schema imports
    Ray Serve, which takes a second.
    """
    config, root = _read(path, check=check), path.parents[1]
    former = _former_root(config, root)
    if config is None or former is None:
        return config
    settings = [each["deployments"][0]["user_config"] for each in config["applications"]]
    for each in [*settings, *(each["standby"] for each in settings if each.get("standby"))]:
        for name in PATHS:
            if each.get(name) and Path(each[name]).is_relative_to(former):
                each[name] = str(root / Path(each[name]).relative_to(former))
    return config


def former_root(path: Path) -> Path | None:
    """Where the store was when it deployed, if it was moved or copied since; raises Failure if the file is damaged."""
    return _former_root(_read(path, check=False), path.parents[1])


def _former_root(config: Mapping[str, Any] | None, here: Path) -> Path | None:
    for application in (config or {}).get("applications", ()):
        bundle = Path(application["deployments"][0]["user_config"]["bundle"])
        if bundle.match(f"{PINNED}/*/*"):  # family / version
            root = bundle.parents[len(PINNED.parts) + 1]
            if not is_same_directory(root, here):
                return root
    return None


def _read(path: Path, *, check: bool) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Failure(f"{path} is not YAML ({error}); remove it and deploy again") from error
    if not isinstance(config, dict):
        raise Failure(f"{path} is not a Serve config; remove it and deploy again")
    if check:
        check_config(config)
    return config


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Validate the config and write it atomically."""
    check_config(config)
    header = "# Written by `shopkeeper deploy`: the config applied to the cluster.\n"
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    write_text(path, header + text, mode=0o600)  # the address of an event store may have a password


def _unknown(model: type[BaseModel], given: Mapping[str, Any], where: str) -> str | None:
    """Path of the first key that is not a field of the pydantic model."""
    for key, value in given.items():
        if key not in model.model_fields:
            return f"{where}{key}"
        inner = _model_of(model.model_fields[key].annotation)
        for item in value if isinstance(value, list) else [value]:
            if inner is not None and isinstance(item, Mapping):
                unknown = _unknown(inner, item, f"{where}{key}.")
                if unknown:
                    return unknown
    return None


def _model_of(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model in an annotation such as `list[Model]` or `Model | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_of, getattr(annotation, "__args__", ()))), None)
