"""The prompts that homebox ships: what a model must go on answering as it did.

Invariant: a smaller number of them is the beginning of a larger one, and each kind has its share.
"""

import tomllib
from functools import cache
from hashlib import sha256
from importlib.resources import files


@cache
def prompt_groups() -> dict[str, tuple[str, ...]]:
    """Return all prompts by group."""
    text = files(__package__).joinpath("prompts.toml").read_text(encoding="utf-8")
    return {group: tuple(prompts) for group, prompts in tomllib.loads(text).items()}


def shipped_prompts(count: int) -> list[str]:
    """Return so many prompts, of all groups by their size; within a group chosen by hash."""
    ranked = []
    for prompts in prompt_groups().values():
        order = sorted(prompts, key=lambda prompt: sha256(prompt.encode()).digest())
        # The middle of its share of the whole: so every beginning has all groups in proportion.
        ranked += [((place + 0.5) / len(order), prompt) for place, prompt in enumerate(order)]
    return [prompt for _, prompt in sorted(ranked)][:count]
