"""From raw images to prepared ones."""
