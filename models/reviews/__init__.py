"""Reviews: sentiment, aspects, reputation of products, and what a person should look at."""
