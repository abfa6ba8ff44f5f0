"""Agreement with the reference implementations, live or by the files that they left."""
