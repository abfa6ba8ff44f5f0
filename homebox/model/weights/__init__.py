"""Weights as the kernels read them: where they lie, packed once, on their devices."""
