"""What one clause tells: a topic and its value."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Told:
    """One topic with its value; `kind` is "fact" or "preference"."""

    subject: str
    value: str
    kind: str = "fact"


def cleaned(value: str) -> str:
    """Strip blanks, quotation marks and full stops from a value."""
    return " ".join(value.split()).strip(" \"'“”.,!?")
