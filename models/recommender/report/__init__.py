"""Metrics, slices and summary of a recommender's evaluation."""
