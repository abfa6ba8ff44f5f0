"""Examples -> an adapter."""
