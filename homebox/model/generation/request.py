"""What is asked of a model: the ids of a prompt, how to choose tokens, and whose answer it is.

The one idea: everything that an answer depends on, and everything that decides what it may share
with others, is in one value. Invariant: answers share keys and values only if owner and adapter are
the same.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from homebox.model.generation.guide import Guide
from homebox.model.generation.sampling import SamplingParams


@dataclass(frozen=True, slots=True, eq=False)
class GenerationRequest:
    """One answer that is wanted; see the module's note."""

    prompt_ids: Sequence[int]  # (T,)
    sampling: SamplingParams
    adapter: str = "base"  # the name of a resident adapter: its weights hash, or "base"
    owner: str | None = None  # whose prefixes it may use and leave behind; None: nothing is shared
    conversation: str = ""  # names earlier prompts, to say why a prefix was missed
    stable: int = 0  # the first ids that stay the same for long (system and tools)
    guide: Guide | None = None
    # When its prompt was begun (`time.monotonic`): what was forgotten since may stand in it.
    asked: float = field(default_factory=time.monotonic)
