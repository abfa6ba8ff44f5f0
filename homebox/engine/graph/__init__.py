"""Expressions over tensors as immutable nodes: types, indices, gradients, algebraic rules."""
