"""Marks -> a verdict, and the report of it."""
