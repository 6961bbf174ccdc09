"""The recommender's networks, one file each; `build` picks one."""
