"""What a picture shows, in words: descriptions from templates and titles that are learnt."""
