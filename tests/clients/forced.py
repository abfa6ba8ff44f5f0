"""A sampler that is told what to choose, in place of a model that could decide.

The one idea: only the choice of a token is replaced. The logits were really computed, the grammar
really says what may come, and a choice that it forbids is a failure of the test; whatever follows
(text, calls, stream, log) cannot tell the difference.
Invariant: nothing in `homebox` names this file or anything like it.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from tokenizers import Tokenizer

from homebox.errors import EngineError
from homebox.model.generation.guide import Bits
from homebox.model.generation.sampling import Sampler, SamplingParams
from homebox.model.strictmath import Float32
from tests.clients.qwen3_folder import END
from tests.clients.script import answer


class Player:
    """Turns prompts into the ids of their answers."""

    def __init__(self, folder: Path, script: Callable[[str], str] = answer) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._script = script

    def ids(self, prompt_ids: Iterable[int]) -> list[int]:
        """Return the ids that follow a prompt, the end of the turn included."""
        prompt = self._tokenizer.decode(list(prompt_ids), skip_special_tokens=False)
        said = self._tokenizer.encode(self._script(prompt), add_special_tokens=False)
        return [*said.ids, END]


class ForcedSampler(Sampler):
    """Chooses what the player says, if it may be chosen."""

    def __init__(
        self, player: Player, params: SamplingParams, prompt_ids: Iterable[int] = ()
    ) -> None:
        prompt = list(prompt_ids)
        super().__init__(params, prompt)
        self._forced = iter(player.ids(prompt))

    def next(self, logits: Float32, allowed: Bits | None = None) -> int:
        """Return the next id of the script; raises EngineError if it must not come here."""
        super().next(logits, allowed)
        token = next(self._forced)
        if allowed is not None and not allowed[token >> 5] >> (token & 31) & 1:
            raise EngineError(f"the grammar forbids token {token}, which the script says next")
        return token
