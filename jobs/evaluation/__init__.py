"""Scores of a model on a split, their intervals, the promotion gate and the report."""
