"""What a generated document is made of."""

from typing import NamedTuple


class Turn(NamedTuple):
    """One message of a document; `learn` says whether its text is a training target."""

    role: str
    content: str
    learn: bool = False


Document = list[Turn]


def user(text: str) -> Turn:
    """Make a message of the owner."""
    return Turn("user", text)


def assistant(text: str, learn: bool = True) -> Turn:
    """Make an answer; one that is only context is not learned."""
    return Turn("assistant", text, learn)


def system(text: str) -> Turn:
    """Make a system message."""
    return Turn("system", text)
