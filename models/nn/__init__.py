"""Building blocks that several families use: layers, optimizers, precision, state dicts."""
