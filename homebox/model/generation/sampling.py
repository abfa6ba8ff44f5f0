"""Chooses the next token from the model's logits.

Order: penalties, temperature, top-k, top-p, min-p, then one draw; each filter sees what the one
before left, renormalised, as in Hugging Face's generation code.
Invariant: the same logits, parameters and seed give the same tokens on every machine: the
exponential is `strictmath.exp`, sums run in a fixed order, and the generator is integer arithmetic.
"""

import math
import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from homebox.errors import EngineError, RequestError
from homebox.model.strictmath import Float32, Float64, exp

MAX_STOP_STRINGS = 64
FIRST_SORTED = 256  # tokens that top_p looks at first
_MASK64 = (1 << 64) - 1
Ids = npt.NDArray[np.int64]


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
    seed: int | None = None  # None draws a fresh one
    stop: tuple[str, ...] = ()  # texts that end the answer and are not part of it
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
        if not isinstance(self.stop, tuple) or len(self.stop) > MAX_STOP_STRINGS:
            raise RequestError(f"stop must be at most {MAX_STOP_STRINGS} texts", param="stop")
        if not all(isinstance(text, str) and 0 < len(text) <= 1024 for text in self.stop):
            raise RequestError("every stop text must be 1 to 1024 characters", param="stop")

    def as_dict(self) -> dict[str, object]:
        """Return the fields as plain JSON values, for the ledger."""
        names = (field.name for field in fields(self) if field.name != "shown")
        values = {name: getattr(self, name) for name in names}
        return {**values, "stop": list(self.stop)}


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

    def next(self, logits: Float32) -> int:
        """Return the id chosen from `logits`, float32 (V,); equal logits favour the lower id.

        Raises EngineError if the logits hold NaN or nothing finite.
        """
        best = int(np.argmax(logits))
        if not math.isfinite(logits[best]):
            raise EngineError("the model's logits are not finite; its weights may be damaged")
        if self.params.temperature == 0.0 and not self._penalises():
            return self._remember(best)
        scores = self._penalised(logits.astype(np.float64))
        if self.params.temperature == 0.0:
            return self._remember(int(np.argmax(scores)))
        ids, weights = candidates(scores, self.params)
        return self._remember(int(ids[self._draw(weights)]))

    def _draw(self, weights: Float64) -> int:
        totals = np.cumsum(weights)
        point = self._generator.uniform() * totals[-1]
        # The product may round up to the total itself, which lies after the last candidate.
        return min(int(np.searchsorted(totals, point, side="right")), len(weights) - 1)

    def _remember(self, index: int) -> int:
        self._counts[index] += 1
        if self.params.repetition_penalty != 1.0:
            self._seen.add(index)
        return index

    def _penalises(self) -> bool:
        params = self.params
        in_answer = params.frequency_penalty != 0.0 or params.presence_penalty != 0.0
        return params.repetition_penalty != 1.0 or in_answer

    def _penalised(self, scores: Float64) -> Float64:
        params = self.params
        if params.repetition_penalty != 1.0 and self._seen:
            seen = np.array(sorted(self._seen), dtype=np.int64)
            old = scores[seen]
            penalty = params.repetition_penalty
            scores[seen] = np.where(old > 0, old / penalty, old * penalty)
        for index, count in self._counts.items():
            scores[index] -= params.frequency_penalty * count + params.presence_penalty
        return scores


def candidates(scores: Float64, params: SamplingParams) -> tuple[Ids, Float64]:
    """Return (ids, weights) of the tokens that may be drawn; weights are not normalised.

    `scores` is float64 (V,) after penalties; params.temperature must be above 0. The ids come in
    the order of the scores, or all in their own order if no filter is set.
    """
    shifted = scores - np.max(scores)
    with np.errstate(over="ignore"):
        shifted = np.maximum(shifted / params.temperature, -1000.0)
    if params.top_k == 0 and params.top_p >= 1.0 and params.min_p == 0.0:
        return np.arange(len(scores), dtype=np.int64), exp(shifted)
    if params.top_k == 0:
        ids, weights = _likeliest(shifted, params)
    else:
        ids = _descending(shifted, params.top_k)
        weights = exp(shifted[ids])
        if params.top_p < 1.0:
            keep = _kept(weights, params.top_p * float(np.cumsum(weights)[-1]))
            ids, weights = ids[:keep], weights[:keep]
    if params.min_p > 0.0:
        keep = int(np.count_nonzero(weights >= params.min_p * weights[0]))
        ids, weights = ids[:keep], weights[:keep]
    return ids, weights


def _likeliest(scores: Float64, params: SamplingParams) -> tuple[Ids, Float64]:
    """Return ids and weights by falling score: as many as top_p wants, or min_p might."""
    weights = exp(scores)
    if params.top_p >= 1.0:
        kept = np.flatnonzero(weights >= params.min_p)  # the largest weight is 1
        order = np.argsort(-scores[kept], kind="stable")
        return kept[order].astype(np.int64), weights[kept[order]]
    share = params.top_p * float(np.cumsum(weights)[-1])
    count = FIRST_SORTED
    while True:  # few tokens hold most of the weight, so sorting them all is seldom needed
        ids = _descending(scores, count)
        keep = _kept(weights[ids], share)
        if keep < len(ids) or len(ids) == len(scores):
            return ids[:keep], weights[ids[:keep]]
        count *= 16


def _kept(weights: Float64, share: float) -> int:
    """Return how many of the first weights it takes to reach a share of the whole."""
    return int(np.searchsorted(np.cumsum(weights), share, side="left")) + 1


def _descending(scores: Float64, top_k: int) -> Ids:
    """Return ids by falling score, equal scores by rising id; only the first `top_k` unless 0."""
    if 0 < top_k < len(scores):
        # Sorting a whole large vocabulary costs more than the rest of sampling together.
        bound = np.partition(scores, len(scores) - top_k)[len(scores) - top_k]
        kept = np.flatnonzero(scores >= bound)
        order = np.argsort(-scores[kept], kind="stable")[:top_k]
        return kept[order].astype(np.int64)
    return np.argsort(-scores, kind="stable").astype(np.int64)


def _check_whole(value: object, name: str, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise RequestError(f"{name} must be a whole number from {low} to {high}", param=name)


def _check_number(value: object, name: str, low: float, high: float) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not low <= value <= high:  # type: ignore[operator]
        raise RequestError(f"{name} must be a number from {low:g} to {high:g}", param=name)
