"""Reputation of products: shrunk scores with intervals, what changed, and the table of both."""
