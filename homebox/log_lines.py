"""How the daemon's log is written: one line for one record, whatever it quotes.

The one idea: what requests and models write is quoted in messages and tracebacks, so all that
could end a line, move a terminal's cursor or turn text around is spelled out where lines are made,
not where messages are. Invariant: only the log itself begins a line without a margin.
"""

import logging
from types import TracebackType
from typing import TextIO

FORMAT = "homebox: %(name)s: %(message)s"
MARGIN = "    | "  # before the lines of a traceback

_Raised = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def printable(text: str) -> str:
    """Return a text with everything spelled out that is no visible character or blank."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _spelled(each) for each in text)


class LogLines(logging.Formatter):
    """Formats records as lines; what follows the first line of a record stands behind a margin."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
        record.exc_text = None  # as another handler wrote it
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Return the first line."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: _Raised) -> str:  # noqa: N802
        """Return a traceback."""
        return _behind_margin(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        """Return a stack."""
        return _behind_margin(super().formatStack(stack_info))


def begin(stream: TextIO | None = None) -> None:
    """Write the log to `stream`, standard error if none; what others set up before stays."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LogLines(FORMAT))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def _behind_margin(text: str) -> str:
    return "\n".join(MARGIN + printable(line) for line in text.split("\n"))


def _spelled(each: str) -> str:
    return each.encode("unicode_escape").decode("ascii")
