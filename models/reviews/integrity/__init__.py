"""What a person should look at: texts that are nearly the same, and bursts of reviews."""
