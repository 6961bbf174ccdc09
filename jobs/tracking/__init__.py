"""Runs, metrics, models and aliases: the only package that imports MLflow."""
