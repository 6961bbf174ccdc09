"""Events that shops send while a model is served: the event, and the stores that keep it."""
