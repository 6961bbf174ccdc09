"""Batch prediction on a table of requests."""
