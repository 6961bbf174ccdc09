"""What networks of several families use: layers, optimizers, precision."""
