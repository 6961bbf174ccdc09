"""What an image shows, in words: descriptions from templates and titles that are learnt."""
