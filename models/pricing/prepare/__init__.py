"""Prepares sales for prices: a panel with demand groups, its split by time, and its shards."""
