"""The shapes of the HTTP API: requests in, responses out, and the adapters that are served."""
