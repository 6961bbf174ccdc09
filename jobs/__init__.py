"""The verbs, from prepare to deploy; the only package that uses Ray Train, Tune, Data and Jobs."""
