"""Rules of a grammar in Lark's syntax, named as they come.

Invariant: the same body gets the same name, so that a grammar of the same tools is the same text.
"""


class Rules:
    """Collects rules and terminals."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def add(self, body: str) -> str:
        """Return the name of a rule with this body."""
        return self._names.setdefault(body, f"r{len(self._names)}")

    def token(self, body: str) -> str:
        """Return the name of a terminal with this body."""
        return self._names.setdefault(body, f"T{len(self._names)}")

    def grammar(self, start: str) -> str:
        """Return all rules as one grammar that begins at `start`."""
        lines = [f"start: {start}", *(f"{name}: {body}" for body, name in self._names.items())]
        return "\n".join(lines)
