"""Deletes trained models for good: the files of runs and of registered versions; metrics and params stay."""

from __future__ import annotations

from jobs.tracking.client import BUNDLE, Tracking
from jobs.tracking.registry import Registry


def purge_run(tracking: Tracking, run_id: str) -> None:
    """Delete the model of a run; raises DependencyDown."""
    with tracking.reached():
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        get_artifact_repository(tracking.artifact_uri(run_id, BUNDLE)).delete_artifacts()  # type: ignore[no-untyped-call]
        tracking.client.set_tag(run_id, "model_deleted", "erasure of a user")


def purge_version(tracking: Tracking, family: str, version: str) -> None:
    """Delete a registered version and its files; raises DependencyDown."""
    location = Registry(tracking).location(family, version)
    with tracking.reached():
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        get_artifact_repository(location).delete_artifacts()  # type: ignore[no-untyped-call]
        tracking.client.delete_model_version(tracking.name_of(family), version)
