"""Whether submitted jobs have ended, of those that a reachable cluster knows."""

from __future__ import annotations

from contextlib import suppress

from jobs.cli.context import Context, Failure
from jobs.cluster.connection import dashboard
from jobs.cluster.local_head import headers, running_head
from jobs.serving.probe import ask
from jobs.submission.client import ENDED, find_job, has_ended, job_client

TIMEOUT_S = 1.0


def job_has_ended(context: Context, job_id: str) -> bool | None:
    """Whether a job has ended; None if no cluster responds that knows it. Starts no cluster."""
    if context.address is not None:
        if not context.address.startswith(("http://", "https://")):
            return None
        with suppress(Failure, RuntimeError, ConnectionError):
            return has_ended(find_job(job_client(*dashboard(context)), job_id))
        return None
    info = running_head(context.store)
    if info is None:
        return None
    # Not with Ray's client, which takes seconds to import.
    said = ask(f"{info.dashboard_url}/api/jobs/{job_id}", timeout_s=TIMEOUT_S, request_headers=headers(info)).content
    return said.get("status") in ENDED if isinstance(said, dict) and said.get("status") else None
