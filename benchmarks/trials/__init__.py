"""What trials of a server need: the server, its callers, pictures whose answers are known."""
