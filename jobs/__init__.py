"""The verbs: prepare, train, sweep, evaluate, promote, predict, deploy, submit. The only place with Ray Train, Tune, Data and Jobs."""
