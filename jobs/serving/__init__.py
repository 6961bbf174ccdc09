"""What is served: the Ray Serve config and the models it names."""
