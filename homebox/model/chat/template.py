"""Renders a model's own chat template, within bounds.

Format: jinja2 as Hugging Face's libraries set it up (https://huggingface.co/docs/transformers,
"chat templates"). Invariant: a template that fails, escapes or does not end is an error of its file
or of the request, never of the program.
"""

from functools import lru_cache
from typing import Any

from jinja2 import Template, meta
from jinja2.exceptions import SecurityError, TemplateError

from homebox.errors import ModelFormatError, RequestError
from homebox.model.chat.budget import MAX_WEIGHT, Budget, Using
from homebox.model.chat.said import joined
from homebox.model.chat.sandbox import ChatEnvironment, literal_size
from homebox.model.tokenizer.settings import MAX_TEMPLATE

STOPPED = "template_stopped"  # code of the error of a template that takes too much


class ChatTemplate:
    """A parsed template; raises ModelFormatError naming `where` if it cannot be parsed.

    `names` are the variables that it asks for.
    """

    def __init__(self, source: str, where: str = "chat template") -> None:
        if len(source) > MAX_TEMPLATE:
            raise ModelFormatError(f"{where}: longer than {MAX_TEMPLATE} characters")
        self.source = source
        try:
            self._literal, self.names, self._template = _compiled(source)
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            place = "" if line is None else f" in line {line}"
            raise ModelFormatError(f"{where}: cannot be parsed{place}: {error.message}") from None
        except (RecursionError, MemoryError, SyntaxError, ValueError, OverflowError):
            raise ModelFormatError(f"{where}: cannot be parsed: too complex") from None

    def render(self, tracked: bool = False, /, **variables: Any) -> str:
        """Return the text of the template; `variables` are plain JSON values.

        With `tracked`, texts that know who said them (`said.py`) give a text that knows it too.
        Raises RequestError with the template's own words where it refuses the messages.
        """
        parts: list[str] = []
        size = 0
        try:
            with Using(Budget(self._literal, tracked)):
                for part in self._template.generate(**variables):
                    parts.append(part)
                    size += len(part)
                    if size > MAX_WEIGHT:
                        raise SecurityError("the template makes too much text")
        except SecurityError as error:
            message = f"this model's chat template was stopped: {error}"
            raise RequestError(message, code=STOPPED) from None
        except TemplateError as error:
            raise RequestError(
                f"this model's chat template refuses these messages: {error}", param="messages"
            ) from None
        except RecursionError:
            raise RequestError("this model's chat template nests too deeply") from None
        except Exception as error:
            # Templates are programs of other people: they fail in any way that Python can.
            raise RequestError(
                f"this model's chat template fails on these messages: {error}"[:500],
                param="messages",
            ) from None
        return joined(parts)


def render_template(template: str, **variables: Any) -> str:
    """Return the text that a chat template makes of messages, tools and other variables.

    Raises ModelFormatError if it cannot be parsed, RequestError if it fails or takes too much.
    """
    return ChatTemplate(template).render(**variables)


@lru_cache(maxsize=32)
def _compiled(source: str) -> tuple[int, frozenset[str], Template]:
    environment = ChatEnvironment()
    with Using(Budget(0)):
        tree = environment.parse(source)
        names = frozenset(meta.find_undeclared_variables(tree))
        return literal_size(tree), names, environment.from_string(tree)
