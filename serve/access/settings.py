"""The settings of a deployment that say who may use it and what is noted: keys, metrics, the request log."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field

from serve.access.request_log import LogSettings


class AccessSettings(BaseModel):
    """A part of the deployment's `user_config`; the defaults are those of releases that had no keys."""

    keys: Path | None = None
    """File of the API keys; without one, and unless `requires_keys`, no request needs a key."""
    requires_keys: bool = False
    """Refuse every request while there is no file of keys."""
    metrics: Path | None = None
    """Directory in which the replicas of all families share their counts."""
    cluster: Path | None = None
    """Record of the local Ray cluster, which has the ports of the proxy's metrics."""
    request_log: Path | None = None
    """Directory or file of the request log; None for none."""
    request_log_sample: float = Field(default=0.01, ge=0.0, le=1.0)
    """Share of the requests that are logged."""
    salt: Path | None = None
    """Secret of the store with which the request log hashes ids."""

    @property
    def log_settings(self) -> LogSettings | None:
        """The request log's; None for no log."""
        if self.request_log is None:
            return None
        salt = self.salt or self.request_log.parent / "salt"
        return LogSettings(self.request_log, self.request_log_sample, salt)
