"""The tensor compiler: lazy graphs become fused kernels that run on all cores; see README.md."""
