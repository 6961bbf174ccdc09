"""From raw pictures to prepared ones."""
