"""Batch prediction: tables of requests to tables of answers."""
