"""Which kernels a graph becomes: contractions, attention, what shares a kernel, tiles as data."""
