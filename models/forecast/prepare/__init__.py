"""Prepares sales for forecasts: a panel, its split by time, and its shards."""
