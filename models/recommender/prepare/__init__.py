"""From a raw behaviour log to prepared data."""
