"""The Ray cluster a verb runs on, local or remote, and the tasks on it."""
