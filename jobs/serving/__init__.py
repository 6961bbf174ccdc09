"""Deployment: the Ray Serve config and Serve's REST API."""
