"""Reading other people's files, for every family: tables and their rows, and where bad rows go."""
