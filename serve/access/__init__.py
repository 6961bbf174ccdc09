"""Who may use an endpoint, how often, and what is noted of it: API keys, rate limits, the request log."""
