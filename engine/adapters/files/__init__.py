"""Games and dead letters in files."""
