"""A language model at home that learns its owner at night, and can be rolled back."""

__version__ = "0.1.0"
