"""Submission of verbs to a cluster, and the jobs that come of it: what is sent along, followed, listed."""
