"""The commands of the command line, a module each: `add` declares it, and `run` does it."""
