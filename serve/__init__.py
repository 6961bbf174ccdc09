"""The online service: one Ray Serve deployment class for every family."""
