"""The shapes of answers, one file for each endpoint."""
