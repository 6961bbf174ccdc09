"""The Ray cluster a verb works on: the local one, a remote one, and tasks on it."""
