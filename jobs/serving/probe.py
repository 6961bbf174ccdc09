"""Asks endpoint, Serve and cluster of a family at once, each with a time limit, and who holds the port."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeVar

from jobs.cli.context import Context
from jobs.cluster.local_head import ClusterInfo, headers, running_head
from jobs.cluster.processes import Holder, holder
from jobs.serving.access import internal_key
from jobs.serving.api import bearer
from jobs.serving.config import application_of, user_config
from jobs.serving.switch import endpoint_url
from models.family import Family

T = TypeVar("T")
NUM_QUESTIONS = 4
"""Requests to an endpoint, on connections of their own, so that very likely each of two replicas answers one."""
SHARE = 0.7
"""Share of the time that remains for the first questions; who holds the port is only asked after them."""
MAX_BODY_BYTES = 4_000_000


@dataclass(frozen=True)
class Answer:
    """What came back from an address: a status and JSON if it was any, or why nothing did."""

    status: int | None = None
    content: Any = None
    error: str | None = None
    is_refused: bool = False


@dataclass(frozen=True)
class Facts:
    """What is known about a family's endpoint."""

    url: str
    port: int
    version: str
    """Version that was deployed last."""
    min_replicas: int
    cluster: Literal["running", "dead", "none", "elsewhere"]
    """The local cluster of the store: `dead` if it was not stopped, `none` if none was started here."""
    answers: list[Answer] = field(default_factory=list)
    serve: Mapping[str, Any] | None = None
    """Serve's state of the application, empty if it has none; None if it is unknown."""
    serve_error: str | None = None
    gcs_error: str | None = None
    held_by: Holder | None = None
    store: str = ""


class Deadline:
    """A moment until which calls may run, each in a thread that the process does not wait for when it ends."""

    def __init__(self, timeout_s: float) -> None:
        self._end_s = time.monotonic() + timeout_s

    @property
    def remaining_s(self) -> float:
        """Seconds that are left, at least a little."""
        return max(0.05, self._end_s - time.monotonic())

    def start(self, call: Callable[[], T]) -> Future[T]:
        """Run a call in a thread."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001  passed on to the caller
                future.set_exception(error)

        threading.Thread(target=run, daemon=True, name="probe").start()
        return future

    def result(self, future: Future[T], *, share: float = 1.0) -> T:
        """The result of a call; raises TimeoutError at the deadline, or at a share of what remains until then."""
        return future.result(timeout=self.remaining_s * share)


def ask(url: str, *, timeout_s: float, request_headers: Mapping[str, str] | None = None) -> Answer:
    """GET an address."""
    request = urllib.request.Request(url, headers=dict(request_headers or {}))
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return Answer(status=response.status, content=_json(response.read(MAX_BODY_BYTES)))
    except urllib.error.HTTPError as error:
        return Answer(status=error.code)
    except (OSError, ValueError) as error:
        cause = getattr(error, "reason", error)
        if isinstance(cause, TimeoutError):
            return Answer(error=_late(url, timeout_s))
        return Answer(error=f"{url}: {cause}", is_refused=isinstance(cause, ConnectionRefusedError))
    except Exception as error:  # noqa: BLE001  a stranger may answer anything
        return Answer(error=f"{url}: {type(error).__name__} {error}")


def probe(context: Context, family: Family, config: Mapping[str, Any], deadline: Deadline) -> Facts:
    """Everything that tells whether a deployed family is served, within the deadline."""
    http, served = config["http_options"], user_config(config, family)
    url = endpoint_url(context, context.address or "", http)
    timeout_s = SHARE * deadline.remaining_s
    address = f"{url}{family.models_path}"
    question = partial(ask, address, timeout_s=timeout_s, request_headers=bearer(internal_key(context.store)))
    asked = [deadline.start(question) for _ in range(NUM_QUESTIONS)]
    found = deadline.start(partial(running_head, context.store))
    facts: dict[str, Any] = {"cluster": "elsewhere" if context.address else "none"}
    if context.address is None:
        facts |= _of_cluster(context, family, found, deadline, timeout_s=timeout_s)
    answers = [_settled(deadline, each, address, timeout_s) for each in asked]
    is_ours = any(isinstance(each.content, dict) and each.content.get("family") == family.name for each in answers)
    if not is_ours and not all(each.is_refused for each in answers):
        with suppress(TimeoutError):  # then it is unknown
            facts["held_by"] = deadline.result(deadline.start(partial(holder, http["port"])))
    replicas = (application_of(config, family) or {})["deployments"][0].get("autoscaling_config", {})
    return Facts(
        url=url,
        port=int(http["port"]),
        version=str(served["version"]),
        min_replicas=int(replicas.get("min_replicas", 1)),
        answers=answers,
        store=str(context.store.root),
        **facts,
    )


def _of_cluster(
    context: Context,
    family: Family,
    found: Future[ClusterInfo | None],
    deadline: Deadline,
    *,
    timeout_s: float,
) -> dict[str, Any]:
    """What the store's own cluster says."""
    try:
        info = deadline.result(found, share=SHARE)
    except TimeoutError:
        return {"cluster": "running", "serve_error": "whether the local cluster runs could not be found out in time"}
    if info is None:
        return {"cluster": "dead" if (context.store.cluster / "cluster.json").is_file() else "none"}
    host, _, port = info.address.rpartition(":")
    gcs = deadline.start(partial(_connection_error, host, int(port), timeout_s=timeout_s))
    address = f"{info.dashboard_url}/api/serve/applications/"
    serve = deadline.start(partial(ask, address, timeout_s=timeout_s, request_headers=headers(info)))
    said = _settled(deadline, serve, address, timeout_s)
    is_known = said.status == 200 and isinstance(said.content, dict)
    try:
        gcs_error = deadline.result(gcs)
    except TimeoutError:
        gcs_error = _late(f"the control service at {info.address}", timeout_s)
    return {
        "cluster": "running",
        "serve": said.content.get("applications", {}).get(family.name, {}) if is_known else None,
        "serve_error": None if is_known else said.error or f"the Ray dashboard responded with {said.status}",
        "gcs_error": gcs_error,
    }


def _connection_error(host: str, port: int, *, timeout_s: float) -> str | None:
    """Why a TCP connection cannot be made, or None."""
    try:
        socket.create_connection((host, port), timeout=timeout_s).close()
    except OSError as error:
        return f"{host}:{port}: {error}"
    return None


def _settled(deadline: Deadline, future: Future[Answer], address: str, timeout_s: float) -> Answer:
    try:
        return deadline.result(future)
    except TimeoutError:  # such as a server that sends a byte now and then
        return Answer(error=_late(address, timeout_s))


def _late(what: str, timeout_s: float) -> str:
    return f"{what} did not respond within {timeout_s:.1f} s"


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
