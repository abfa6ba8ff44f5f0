"""The calls of one answer, from the name on, and the tools that they may be of.

The one idea: formats say what they read (`begin`, `give`, `finish`), and only here is decided what
of it is given out and when. A call is given out when it is complete, so that nothing ever has to be
taken back; an eager parser gives out what is certain to be the beginning of a call's arguments.
"""

import re
import secrets
import string
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from homebox.model.answers.events import CallArguments, CallBegins, CallEnds, Event
from homebox.model.answers.reader import Reader, Steps

MAX_CALLS = 128  # of one answer; what follows stays text
# Mistral's templates refuse ids of any other length, and others take what they get.
ID_LENGTH = 9
_LETTERS = string.ascii_letters + string.digits
NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
# Command-R's models are told to call these where they do not want to call anything.
_NO_CALL = ("directly_answer", "directly-answer")


def new_id() -> str:
    """Return an id for a call."""
    return "".join(secrets.choice(_LETTERS) for _ in range(ID_LENGTH))


def tools_by_name(tools: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the schema of each parameter of each tool, from tools as the API's clients send them.

    What is not of that form is taken for a tool without parameters, or left out if it has no name.
    """
    found = {}
    for tool in tools:
        inner = tool.get("function") if isinstance(tool, Mapping) else None
        function = inner if isinstance(inner, Mapping) else tool
        name = function.get("name") if isinstance(function, Mapping) else None
        if isinstance(name, str) and name:
            parameters = function.get("parameters")
            schemas = parameters.get("properties") if isinstance(parameters, Mapping) else None
            found[name] = schemas if isinstance(schemas, Mapping) else {}
    return found


class Calls:
    """Takes what a format reads; `mark` is told when what was read so far is a complete call."""

    def __init__(
        self,
        reader: Reader,
        tools: Mapping[str, Mapping[str, Any]],
        out: Callable[[Event], object],
        mark: Callable[[], object],
        eager: bool = False,
        ids: Callable[[], str] = new_id,
    ) -> None:
        self.reader = reader
        self.tools = tools
        self.only_known = False
        self._out = out
        self._mark = mark
        self._eager = eager
        self._ids = ids
        self._count = 0
        self._name = ""
        self._pieces: list[str] = []
        self._shown = False  # the call's name was given out,
        self._gave = False  # and some of its arguments

    def begin(self, name: str) -> None:
        """Take the name of a call, which may come before, between or after its arguments.

        Raises ValueError if no tool can be called so.
        """
        known = name in self.tools
        if self._name or not (known or (NAME.fullmatch(name) and not self.only_known)):
            raise ValueError("no name of a tool")
        if not self.tools or self._count == MAX_CALLS or (name in _NO_CALL and not known):
            raise ValueError("not to be called")
        self._name = name
        if self._eager:
            self._shown = True
            self._out(CallBegins(self._count, self._ids(), name))
            self._show()

    def give(self, piece: str) -> None:
        """Take a piece of the arguments' JSON."""
        self._pieces.append(piece)
        if self._shown:
            self._show()

    def finish(self) -> None:
        """Give out the call; without a piece of arguments it has none: {}."""
        if not self._name:
            raise ValueError("no name")
        if not self._pieces and not self._gave:
            self.give("{}")
        self._mark()
        if not self._shown:
            self._out(CallBegins(self._count, self._ids(), self._name))
            self._show()
        self._out(CallEnds(self._count))
        self._forget()

    def fail(self) -> bool:
        """Forget a call that did not work out; tell whether some of it was given out already."""
        shown = self._shown
        if shown:
            self._out(CallEnds(self._count, complete=False))
            self._forget()
        self._name, self._pieces = "", []
        return shown

    def _show(self) -> None:
        text = "".join(self._pieces)
        self._pieces.clear()
        if text:
            self._gave = True
            self._out(CallArguments(self._count, text))

    def _forget(self) -> None:
        self._count += 1
        self._name = ""
        self._shown = self._gave = False


def read_name(reader: Reader, dots: bool = True) -> Steps[str]:
    """Read a name that stands without quotation marks; may be empty."""
    name = ""
    while len(name) <= 128:
        char = yield from reader.peek()
        if not char or not NAME.fullmatch(char) or (char == "." and not dots):
            break
        name += reader.skip()
    return name
