"""The routes, one file for each family of endpoints; each has a function `add`."""

from collections.abc import Callable
from typing import Any

from homebox.api import wire
from homebox.api.routes import (
    chat,
    completions,
    embeddings,
    feedback,
    health,
    messages,
    models,
    responses,
    tokens,
)
from homebox.api.shapes.messages import error_value
from homebox.errors import HomeboxError

FAMILIES = (
    chat,
    completions,
    responses,
    messages,
    models,
    embeddings,
    tokens,
    feedback,
    health,
)
# Whose callers know another shape of errors than OpenAI's.
ERRORS: dict[str, Callable[[HomeboxError], dict[str, Any]]] = {"/v1/messages": error_value}


def error_for(path: str) -> Callable[[HomeboxError], dict[str, Any]]:
    """Return what says an error in the shape that callers of a path know."""
    for root, said in ERRORS.items():
        if path == root or path.startswith(root + "/"):
            return said
    return wire.error_value
