"""Defaults for the environment variables of libraries."""

from __future__ import annotations

MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # Otherwise a server that is down blocks each call for four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Also set where no command line has been read, such as in a controller of Ray Train on another machine."""
ENVIRONMENT = {
    **MLFLOW_ENVIRONMENT,
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # Spinning OpenMP threads made an epoch four times slower next to any other load.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Ray's workers compute in a thread, whose own malloc arena would not keep freed memory, see models.nn.memory.
    "MALLOC_ARENA_MAX": "1",
    # Ray Train takes one report per poll; at its default of 2 s, short epochs would wait for the poll.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    # Ray would hold back messages of workers that differ in their numbers only, such as those of epochs.
    "RAY_DEDUP_LOGS": "0",
    # Under `uv run` Ray would upload the working directory, and every worker would search it first.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "5",
}
"""Defaults for environment variables that Ray and MLflow read on import."""
