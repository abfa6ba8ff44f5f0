"""When the box learns on its own; see README.md."""
