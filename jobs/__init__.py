"""The verbs, from prepare to deploy: the only place with Ray Train, Tune, Data and Jobs."""
