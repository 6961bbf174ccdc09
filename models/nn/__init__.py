"""Building blocks that several families use: layers, optimisers, precision, state dicts."""
