"""The truth: every operation in numpy, and an interpreter of kernels that checks each access."""
