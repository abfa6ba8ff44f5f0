"""What an owner may prefer of answers, in so far as a program can check it."""

from homebox.learning.preferences.catalogue import STYLES, Checkable, Style, checkable
from homebox.learning.preferences.checks import Check

__all__ = ["STYLES", "Check", "Checkable", "Style", "checkable"]
