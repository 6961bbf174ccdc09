"""Prepares reviews: checked rows, classes from labels or ratings, splits in which no text is twice."""
