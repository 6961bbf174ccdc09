"""Erasure of users: tombstones, what is deleted at once, receipts, and the search for what is left."""
