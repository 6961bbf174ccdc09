"""Clients for Ray Serve's REST API on the dashboard, and for endpoints."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from jobs.cli.context import DependencyDown, Failure
from models.family import Media

REQUEST_TIMEOUT_S = 10.0


class ServeApi:
    """Ray Serve's REST API on a cluster's dashboard."""

    def __init__(self, dashboard_url: str, headers: Mapping[str, str]) -> None:
        from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

        self.dashboard_url = dashboard_url
        try:
            self._client = ServeSubmissionClient(dashboard_url, headers=dict(headers))
        except (ConnectionError, RuntimeError) as error:
            raise DependencyDown(
                f"the Ray dashboard at {dashboard_url} does not respond: {error}; start the cluster, or check the token"
            ) from error

    def apply(self, config: Mapping[str, Any]) -> None:
        """Set the target state of the cluster; raises Failure if the config is rejected."""
        try:
            self._client.deploy_applications(dict(config))
        except (ConnectionError, RuntimeError) as error:
            raise Failure(f"Ray Serve rejected the config: {error}") from error

    def details(self) -> dict[str, Any]:
        """The current state of Serve; raises DependencyDown."""
        try:
            return self._client.get_serve_details()
        except (ConnectionError, RuntimeError) as error:
            raise DependencyDown(f"the Ray dashboard at {self.dashboard_url} does not respond: {error}") from error

    def num_hosts(self) -> int:
        """Hosts of the cluster that are alive; raises DependencyDown."""
        try:
            # Serve's own methods use it; unlike any client of ours it knows the token of the cluster.
            response = self._client._do_request("GET", "/nodes?view=hostNameList")
            response.raise_for_status()
            return len(response.json()["data"]["hostNameList"])
        except (OSError, RuntimeError) as error:
            raise DependencyDown(
                f"the Ray dashboard at {self.dashboard_url} does not name its hosts: {error}"
            ) from error


def bearer(key: str | None) -> dict[str, str]:
    """The header that sends an API key, if there is one."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}


def read_json(url: str, body: Mapping[str, Any] | None = None, *, key: str | None = None) -> Any:
    """GET, or POST a JSON body, and parse the JSON response; `key` is an API key.

    Raises OSError if nothing responds, Failure for an error status.
    """
    return json.loads(read_file(url, body, key=key).content)


def read_file(
    url: str,
    body: Mapping[str, Any] | None = None,
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Media:
    """Like `read_json`, for a response of any media type."""
    data = None if body is None else json.dumps(body).encode("utf-8")
    sent = {"Content-Type": "application/json", **bearer(key), **(headers or {})}
    request = urllib.request.Request(url, data=data, headers=sent)
    try:
        with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as response:
            return Media(content=response.read(), media_type=response.headers["Content-Type"])
    except urllib.error.HTTPError as error:
        text = error.read(500).decode("utf-8", errors="replace")
        raise Failure(f"{url} responded with {error.code}: {text}") from None
