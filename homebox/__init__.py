"""A language model at home that learns its owner at night, and can be rolled back."""

import os

# All large products run in the engine; numpy's own threads only take time to start (40 ms).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"
