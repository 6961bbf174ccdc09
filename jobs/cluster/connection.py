"""Connects to a Ray cluster: the one at --address, the local one that `deploy` started, or one in this process."""

from __future__ import annotations

import importlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jobs.cli.context import Context, DependencyDown, UsageFailure, log
from jobs.cli.signals import sigterm_restored
from jobs.cluster.local_head import OBJECT_STORE_BYTES, headers, running_head, start_head, token_file
from jobs.cluster.packages import job_config
from jobs.cluster.private import PrivateDirectory, create

CONNECT_TIMEOUT_S = 8.0

_own_directories: list[PrivateDirectory] = []
_is_given = False


def connect(context: Context, *, has_states: bool = False) -> None:
    """Connect this process to its Ray cluster; does nothing if it is connected already.

    A cluster of this process has Ray's State API if `has_states`, for which it needs a dashboard. Raises UsageFailure
    for an invalid address, DependencyDown if nothing responds there.
    """
    global _is_given
    import ray

    if ray.is_initialized():
        return
    _is_given = bool(context.address)
    address = _address_of(context)
    settings: dict[str, Any] = {}
    if address == "local":
        settings |= {"include_dashboard": has_states, "object_store_memory": OBJECT_STORE_BYTES}
        settings["_temp_dir"] = str(_own_directory() / "r")
    if not address.startswith("ray://"):  # with Ray Client the actual driver runs on the cluster
        settings["job_config"] = job_config()
        settings["runtime_env"] = {"worker_process_setup_hook": worker_setup()}
    try:
        with sigterm_restored():
            ray.init(
                address=address,
                logging_level=logging.WARNING,
                logging_config=ray.LoggingConfig(log_level="ERROR"),
                **settings,
            )
    except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
        raise DependencyDown(
            f"the Ray cluster at {context.address or address} refused the connection: {error}; "
            "check its version of Ray, and RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH if it requires a token"
        ) from error


def _address_of(context: Context) -> str:
    """Of the given cluster, the store's own or one to be started; makes the store's token known to Ray."""
    if context.address:
        address = _checked_address(context.address)
        log.info("connecting to the Ray cluster at %s", context.address)
        return address
    info = running_head(context.store)
    use_token(token_file(context.store))
    return info.address if info else "local"


def is_there(context: Context) -> bool:
    """Whether there is a cluster to use: given, connected, or the store's own, which endpoints run on."""
    return bool(context.address) or _is_connected() or running_head(context.store) is not None


def may_scale() -> bool:
    """Whether the connected cluster may start nodes: not the one of this process or of the store on this machine."""
    return _is_given


def worker_setup() -> Callable[[], None]:
    """A function for Ray to run in each new worker of a job: names its cluster in RAY_ADDRESS, and gives way.

    Without the address, where several clusters run on a machine, Ray Train's clean-up would query another one or fail.
    The worker gets Ray's usual niceness of 15, which those of an endpoint on the same cluster do not have.
    """

    def name_own_cluster() -> None:  # nested, so that Ray sends its code: it runs before our packages can be imported
        import contextlib
        import os
        import pathlib

        import ray

        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        for task in [pathlib.Path("0"), *pathlib.Path("/proc/self/task").glob("*")]:
            thread = int(task.name)  # on Linux each has its own niceness, and new ones inherit it
            with contextlib.suppress(OSError):  # the thread has ended
                os.setpriority(os.PRIO_PROCESS, thread, max(15, os.getpriority(os.PRIO_PROCESS, thread)))

    return name_own_cluster


@contextmanager
def disconnected_at_end() -> Iterator[None]:
    """Disconnects at the end of the block if the block connected; Ray would do so when the process ends."""
    was_connected = _is_connected()
    try:
        yield
    finally:
        if _is_connected() and not was_connected:
            disconnect()


def disconnect() -> None:
    """Disconnect, which also stops a cluster that was started in this process."""
    import ray

    with sigterm_restored():  # Ray's shutdown removes the handlers of all signals that it may have set
        ray.shutdown()
    while _own_directories:
        _own_directories.pop().remove()


def is_lost(error: BaseException) -> bool:
    """Whether Ray has lost a process, a node or its control service: another attempt may succeed.

    Not for what our own code raised, in an actor's constructor too.
    """
    if "ray" not in sys.modules:
        return False
    from ray import exceptions

    lost = (exceptions.RayActorError, exceptions.ObjectLostError, exceptions.WorkerCrashedError)
    also = (exceptions.RaySystemError, exceptions.LocalRayletDiedError, exceptions.NodeDiedError)
    return isinstance(error, (*lost, *also, exceptions.OutOfMemoryError)) and "creation task" not in str(error)


def job_id() -> str | None:
    """The Ray job id of this process; None if it is not connected."""
    import ray

    return ray.get_runtime_context().get_job_id() if ray.is_initialized() else None


def free_resources() -> dict[str, float]:
    """Free resources of the connected cluster; exhausted ones are missing."""
    import ray

    return _to_floats(ray.available_resources())  # type: ignore[no-untyped-call]


def node_resources() -> list[dict[str, float]]:
    """Total resources of each live node of the connected cluster."""
    import ray

    return [_to_floats(node["Resources"]) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def own_resources() -> dict[str, float]:
    """Resources that Ray has assigned to this worker process."""
    import ray

    return _to_floats(ray.get_runtime_context().get_assigned_resources())  # type: ignore[no-untyped-call]


def dashboard(context: Context) -> tuple[str, dict[str, str]]:
    """Dashboard URL and HTTP headers of the cluster; starts the local one if needed.

    A Ray address works only on a host of the cluster, as in a submitted job. Raises UsageFailure or DependencyDown.
    """
    if context.address is None:
        info = start_head(context.store)
        return info.dashboard_url, headers(info)
    if urlsplit(context.address).scheme not in ("http", "https"):
        return _dashboard_of_connected(context), {}
    # Ray's clients read the token of a remote cluster from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.
    return context.address.rstrip("/"), {}


def use_token(token_path: Path) -> None:
    """Make Ray in this process authenticate with a token file.

    Ray reads the token from environment variables only and caches it, so this function sets them.
    """
    raylet: Any = importlib.import_module("ray._raylet")
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token_path)
    os.environ.pop("RAY_AUTH_TOKEN", None)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


def _own_directory() -> Path:
    """A new private directory for a cluster in this process, removed when it ends."""
    _own_directories.append(create())
    return _own_directories[-1].path


def _is_connected() -> bool:
    if "ray" not in sys.modules:  # importing it takes a second
        return False
    import ray

    return bool(ray.is_initialized())


def _to_floats(found: Mapping[str, float]) -> dict[str, float]:
    """Ray's unannotated resource dictionaries as floats by name."""
    return {name: float(amount) for name, amount in found.items()}


def _dashboard_of_connected(context: Context) -> str:
    connect(context)
    from ray._private.worker import get_dashboard_url

    url: str | None = get_dashboard_url()  # type: ignore[no-untyped-call]
    if not url:
        raise UsageFailure(
            f"the cluster at {context.address} has no dashboard, which deploy and submit need; "
            "give a dashboard URL, such as http://127.0.0.1:8265"
        )
    return f"http://{url}"


def _checked_address(address: str) -> str:
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.scheme in ("http", "https"):
        raise UsageFailure(
            f"--address {address} is a dashboard URL, which this verb cannot connect to; "
            f"use `shopkeeper submit --address {address} VERB ...`, or give ray://HOST:10001 or HOST:6379"
        )
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageFailure(f"--address {address}: {error}") from None
    if parts.scheme not in ("", "ray") or not host or not port:
        raise UsageFailure(f"--address {address} is not a Ray address; give ray://HOST:10001 or HOST:6379")
    _wait_for_grpc(host, port)
    return address


def _wait_for_grpc(host: str, port: int) -> None:
    # Ray itself would retry for minutes if something listens but does not respond, and then exit the process.
    grpc = importlib.import_module("grpc")
    channel = grpc.insecure_channel(f"{host}:{port}")
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
        grpc.channel_ready_future(channel).result(timeout=CONNECT_TIMEOUT_S)
    except (OSError, grpc.FutureTimeoutError) as error:
        raise DependencyDown(
            f"no Ray cluster responds at {host}:{port} ({str(error) or 'no reply'}); "
            "start it, or omit --address to run on this machine"
        ) from None
    finally:
        channel.close()
