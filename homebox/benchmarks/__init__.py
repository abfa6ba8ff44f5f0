"""How fast a model is served and trained here, as shares of what the machine could do."""
