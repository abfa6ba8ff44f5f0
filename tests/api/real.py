"""The built-in model as the test box holds its fake one."""

import threading
from typing import Any

from homebox.model import Model


class RealModel:
    """A loaded model; `prompts` are those that were rendered."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.slots = model.slots.count
        self.release = threading.Event()
        self.prompts: list[list[int]] = []
        self.chat = self

    def prompt(self, messages: Any, recall: Any = None, **more: Any) -> Any:
        found = self.model.chat.prompt(messages, recall, **more)
        self.prompts.append(found.ids)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)
