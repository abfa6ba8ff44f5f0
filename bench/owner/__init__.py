"""Measures what a box learns of its owner, beside what a person would do instead."""
