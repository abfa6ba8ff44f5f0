"""Chooses the next token from the model's logits.

Order: penalties, biases, what a guide allows, temperature, top-k, top-p, min-p, then one draw; each
filter sees what the one before left, renormalised, as in Hugging Face's generation code.
Invariant: the same logits, parameters and seed give the same tokens on every machine: the
exponential is `strictmath.exp`, sums run in a fixed order, and the generator is integer arithmetic.
A token that is banned or that the guide does not allow is never chosen.
"""

import math
import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import numpy as np

from homebox.errors import EngineError, RequestError
from homebox.model.generation.drawing import Ids, at, descending, draw, likeliest, reach, tempered
from homebox.model.generation.guide import Bits
from homebox.model.generation.logprobs import MAX_TOP
from homebox.model.strictmath import Float32, Float64, exp

MAX_STOP_STRINGS = 64
MAX_BIASES = 4096
BAN = -100.0  # the bias of a token that must not come
_MASK64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens and when to stop; construction raises RequestError naming the field.

    The defaults choose the likeliest token until the model stops or its context is full.
    """

    max_tokens: int | None = None  # None: as many as fit
    temperature: float = 0.0  # 0 chooses the likeliest token
    top_k: int = 0  # keep the k likeliest tokens; 0 keeps all
    top_p: float = 1.0  # keep the fewest likeliest tokens whose probabilities reach p
    min_p: float = 0.0  # keep tokens at least this fraction as likely as the likeliest
    repetition_penalty: float = 1.0  # Keskar et al., arXiv 1909.05858; prompt and answer count
    frequency_penalty: float = 0.0  # subtracted per earlier occurrence in the answer
    presence_penalty: float = 0.0  # subtracted once if the token occurs in the answer
    logit_bias: tuple[tuple[int, float], ...] = ()  # added to logits, -100 to 100; -100 bans
    seed: int | None = None  # None draws a fresh one
    stop: tuple[str, ...] = ()  # texts that end the answer and are not part of it
    logprobs: int | None = None  # how many of the likeliest tokens to tell; None: no likelihoods
    shown: frozenset[int] = frozenset()  # steering tokens that are part of the answer's text

    def __post_init__(self) -> None:
        if self.max_tokens is not None:
            _check_whole(self.max_tokens, "max_tokens", 1, 1 << 31)
        _check_number(self.temperature, "temperature", 0.0, 100.0)
        _check_whole(self.top_k, "top_k", 0, 1 << 31)
        _check_number(self.top_p, "top_p", 0.0, 1.0)
        _check_number(self.min_p, "min_p", 0.0, 1.0)
        _check_number(self.repetition_penalty, "repetition_penalty", 0.01, 100.0)
        _check_number(self.frequency_penalty, "frequency_penalty", -2.0, 2.0)
        _check_number(self.presence_penalty, "presence_penalty", -2.0, 2.0)
        if self.seed is not None:
            _check_whole(self.seed, "seed", -(1 << 63), _MASK64)
        if self.logprobs is not None:
            _check_whole(self.logprobs, "logprobs", 0, MAX_TOP)
        _check_biases(self.logit_bias)
        if not isinstance(self.stop, tuple) or len(self.stop) > MAX_STOP_STRINGS:
            raise RequestError(f"stop must be at most {MAX_STOP_STRINGS} texts", param="stop")
        if not all(isinstance(text, str) and 0 < len(text) <= 1024 for text in self.stop):
            raise RequestError("every stop text must be 1 to 1024 characters", param="stop")

    def as_dict(self) -> dict[str, object]:
        """Return the fields as plain JSON values, for the ledger."""
        names = (field.name for field in fields(self) if field.name != "shown")
        values = {name: getattr(self, name) for name in names}
        biases = [list(pair) for pair in self.logit_bias]
        return {**values, "stop": list(self.stop), "logit_bias": biases}

    def for_choice(self, index: int) -> "SamplingParams":
        """Return the parameters of choice `index` of several: the seed plus the index.

        Choice 0 is what one answer alone would be, and any choice can be had alone again.
        """
        if self.seed is None or index == 0:
            return self
        return replace(self, seed=(self.seed + index) & _MASK64)


class Generator:
    """SplitMix64 (Steele, Lea, Flood 2014): a counter through a mixing function, 64 bits a step."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK64

    def next(self) -> int:
        """Return the next 64 random bits."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK64
        value = self._state
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
        return value ^ (value >> 31)

    def uniform(self) -> float:
        """Return a number in [0, 1) with 53 random bits."""
        return (self.next() >> 11) * 2.0**-53


class Sampler:
    """Chooses the tokens of one sequence, and remembers them for the penalties."""

    def __init__(self, params: SamplingParams, prompt_ids: Iterable[int] = ()) -> None:
        self.params = params
        self.seed = secrets.randbits(63) if params.seed is None else params.seed
        self._generator = Generator(self.seed)
        self._counts: Counter[int] = Counter()
        self._seen = set(prompt_ids) if params.repetition_penalty != 1.0 else set()
        self._banned = tuple(index for index, bias in params.logit_bias if bias == BAN)

    def next(self, logits: Float32, allowed: Bits | None = None) -> int:
        """Return the id chosen from `logits`, float32 (V,); equal logits favour the lower id.

        `allowed` are the tokens that may come, as bits (`guide.Guide.mask`); None: all. Raises
        EngineError if the logits hold NaN or nothing finite, or if nothing is allowed, and
        RequestError if the request bans all that is.
        """
        best = int(np.argmax(logits))
        if not math.isfinite(logits[best]):
            raise EngineError("the model's logits are not finite; its weights may be damaged")
        if self.params.temperature == 0.0 and not self._changes():
            if allowed is None or _is_allowed(allowed, best):
                return self._remember(best)
            ids = _allowed_ids(allowed, len(logits))
            return self._remember(int(ids[np.argmax(logits[ids])]))
        scores = self._changed(logits.astype(np.float64))
        kept = self._choosable(allowed, len(scores))
        if kept is not None:
            scores = scores[kept]
        if self.params.temperature == 0.0:
            chosen = int(np.argmax(scores))
        else:
            chosen = self._draw(scores)
        return self._remember(chosen if kept is None else int(kept[chosen]))

    def _draw(self, scores: Float64) -> int:
        params = self.params
        if params.top_k == 0 and params.top_p >= 1.0 and params.min_p == 0.0:
            return draw(tempered(scores, params.temperature), self._generator.uniform())
        ids, weights = candidates(scores, params)
        return int(ids[at(np.cumsum(weights), self._generator.uniform())])

    def _remember(self, index: int) -> int:
        self._counts[index] += 1
        if self.params.repetition_penalty != 1.0:
            self._seen.add(index)
        return index

    def _changes(self) -> bool:
        """Whether the parameters change logits before anything is chosen."""
        params = self.params
        in_answer = params.frequency_penalty != 0.0 or params.presence_penalty != 0.0
        return params.repetition_penalty != 1.0 or in_answer or bool(params.logit_bias)

    def _changed(self, scores: Float64) -> Float64:
        """Apply penalties, then biases, in place."""
        params = self.params
        if params.repetition_penalty != 1.0 and self._seen:
            seen = np.array(sorted(self._seen), dtype=np.int64)
            old = scores[seen]
            penalty = params.repetition_penalty
            scores[seen] = np.where(old > 0, old / penalty, old * penalty)
        if params.frequency_penalty != 0.0 or params.presence_penalty != 0.0:
            for index, count in self._counts.items():
                scores[index] -= params.frequency_penalty * count + params.presence_penalty
        for index, bias in params.logit_bias:
            scores[index] += bias
        return scores

    def _choosable(self, allowed: Bits | None, count: int) -> Ids | None:
        """Return the ids that may be chosen, rising; None: all of them."""
        ids = None if allowed is None else _allowed_ids(allowed, count)
        if not self._banned:
            return ids
        may = np.zeros(count, bool)
        may[slice(None) if ids is None else ids] = True
        may[list(self._banned)] = False
        left = np.flatnonzero(may).astype(np.int64)
        if not len(left):
            raise RequestError("logit_bias bans every token that may come", param="logit_bias")
        return left


def _is_allowed(allowed: Bits, index: int) -> bool:
    return index >> 5 < len(allowed) and bool(allowed[index >> 5] >> np.uint32(index & 31) & 1)


def _allowed_ids(allowed: Bits, count: int) -> Ids:
    """Return the ids below `count` whose bits are set, rising; raises EngineError if none is."""
    flags = np.unpackbits(allowed.astype("<u4", copy=False).view(np.uint8), bitorder="little")
    ids = np.flatnonzero(flags[:count]).astype(np.int64)
    if not len(ids):
        raise EngineError("the grammar of this answer allows no token here; it cannot go on")
    return ids


def candidates(scores: Float64, params: SamplingParams) -> tuple[Ids, Float64]:
    """Return (ids, weights) of the tokens that may be drawn; weights are not normalised.

    `scores` is float64 (V,) after penalties; params.temperature must be above 0. The ids come in
    the order of the scores, or all in their own order if no filter is set.
    """
    shifted = tempered(scores, params.temperature)
    if params.top_k == 0 and params.top_p >= 1.0 and params.min_p == 0.0:
        return np.arange(len(scores), dtype=np.int64), exp(shifted)
    if params.top_k == 0:
        ids, weights = likeliest(shifted, params.top_p, params.min_p)
    else:
        ids = descending(shifted, params.top_k)
        weights = exp(shifted[ids])
        if params.top_p < 1.0:
            keep = reach(weights, params.top_p * float(np.cumsum(weights)[-1]))
            ids, weights = ids[:keep], weights[:keep]
    if params.min_p > 0.0:
        keep = int(np.count_nonzero(weights >= params.min_p * weights[0]))
        ids, weights = ids[:keep], weights[:keep]
    return ids, weights


def _check_whole(value: object, name: str, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise RequestError(f"{name} must be a whole number from {low} to {high}", param=name)


def _check_number(value: object, name: str, low: float, high: float) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not low <= value <= high:  # type: ignore[operator]
        raise RequestError(f"{name} must be a number from {low:g} to {high:g}", param=name)


def _check_biases(biases: object) -> None:
    if not isinstance(biases, tuple) or len(biases) > MAX_BIASES:
        raise RequestError(f"logit_bias may name at most {MAX_BIASES} tokens", param="logit_bias")
    for pair in biases:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise RequestError("logit_bias must be pairs of id and bias", param="logit_bias")
        _check_whole(pair[0], "logit_bias", 0, 1 << 31)
        _check_number(pair[1], "logit_bias", BAN, -BAN)
    if len({pair[0] for pair in biases}) < len(biases):
        raise RequestError("logit_bias must name each token once", param="logit_bias")
