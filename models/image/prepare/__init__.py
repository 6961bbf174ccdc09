"""Prepares raw images for training: reads, checks, resizes, splits and shards them."""
