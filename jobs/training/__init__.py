"""The training loop and everything around it: checkpoints, distributed workers, sweep trials."""
