"""Scores of a model on a split, confidence intervals, the promotion gate and the report."""
