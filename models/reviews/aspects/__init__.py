"""Aspects of a product that reviews speak of: words, mentions, and a network that learns them."""
