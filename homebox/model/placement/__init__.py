"""Which devices there are for a model, and which of its layers go where."""
