"""What the image family adds to the report of an evaluation."""
