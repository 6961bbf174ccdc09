"""Pipelines: reading their files, the engine of steps, turns and child processes."""
