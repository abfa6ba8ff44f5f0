"""What the routes serve: one model with everything around it.

The one idea: a switch to another model replaces this value as a whole, so a request keeps the one
it began with. Invariant: nothing here changes while it is served, save what its members do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from homebox.api.acting import Lessons
from homebox.api.prompt_memory import PromptMemory
from homebox.api.recall import TurnRecall
from homebox.api.served import Served
from homebox.errors import RequestError
from homebox.memory.ledger import Ledger
from homebox.model.chat.prompt import ChatPrompt
from homebox.model.generation.guide import Guide
from homebox.model.guides import Wanted
from homebox.scheduler import Engine


class Prompter(Protocol):
    """Turns messages into token ids, as the model's chat format says."""

    def __call__(
        self, messages: list[dict[str, Any]], recall: Any = None, **variables: Any
    ) -> ChatPrompt:
        """Give the prompt; by name it takes the tools, and variables of the model's template."""
        ...


def unguided(wanted: Wanted) -> Guide | None:
    """Refuse what a model without a vocabulary cannot be held to; raises RequestError."""
    asked = {
        "response_format": wanted.form is not None,
        "tool_choice": wanted.tool_choice not in ("auto", "none"),
        "reasoning_budget": wanted.thinking_budget is not None,
    }
    for param, there in asked.items():
        if there:
            raise RequestError(f"this model's answers cannot be held to a {param}", param)
    return None


@dataclass(frozen=True)
class Service:
    """A model that is served."""

    engine: Engine
    served: Served
    prompt: Prompter
    ledger: Ledger
    context: int  # tokens of prompt and answer together
    created: int  # Unix seconds; when the model was loaded
    device: str = ""  # the names of those that hold the model
    name: str = ""  # how the owner calls the base
    tokenizer: Any = None  # the model's; None for models of tests that have no vocabulary
    vocabulary: int = 0  # the number of logits
    guide: Callable[[Wanted], Guide | None] = unguided
    recall: TurnRecall | None = None
    lessons: Lessons | None = None  # what is learned from turns
    memory: PromptMemory | None = None  # lessons in prompts
    model: Any = None  # for what only some routes need: embeddings, statistics
