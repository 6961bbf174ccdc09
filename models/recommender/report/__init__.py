"""What the recommender adds to the report of an evaluation."""
