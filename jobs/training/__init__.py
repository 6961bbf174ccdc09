"""The one training loop and what surrounds it: checkpoints, workers, trials."""
