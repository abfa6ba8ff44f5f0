"""Prompts that are no conversation: a text or ids that the model goes on with.

The one idea: nothing is added and nothing is read into it: no chat template before, no parser
behind. Steering tokens that a text names are those tokens, as whoever writes a raw prompt means
them. Invariant: an answer to a plain prompt is text, whatever the model writes.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from homebox.api.reply import Reply
from homebox.api.service import Service
from homebox.errors import ContextLengthError, RequestError
from homebox.model.answers import AnswerParser, Dialect
from homebox.model.generation.logprobs import TokenLogprob, token_logprob
from homebox.model.tokenizer import Tokenizer

COMPLETION = "completion"  # the kind of such turns in the ledger: nobody talks in them
AUTHOR = "file"  # whose words a prompt is: nobody knows, so it must teach nothing
LOGITS = 512 << 20  # bytes of a prompt's logits that are computed at once


@dataclass(frozen=True)
class Plain:
    """One prompt: its text, its ids (T,), and how likely all but the first of them were."""

    text: str
    ids: list[int]
    likely: Sequence[TokenLogprob] = ()


def plain_reply() -> Reply:
    """Return what reads an answer as text and nothing else."""
    return Reply(AnswerParser(Dialect()))


def begun(service: Service, ids: list[int]) -> str:
    """Return the end of a prompt as guides see it; empty where the answer carries on no text."""
    tokenizer = service.tokenizer
    return str(tokenizer.decode(ids[-1:], special=True)) if tokenizer.is_text(ids[-1]) else ""


def plain_prompt(service: Service, given: str | list[int]) -> Plain:
    """Return a prompt; raises RequestError and ContextLengthError."""
    tokenizer = service.tokenizer
    if isinstance(given, str):
        plain = Plain(given, _encoded(tokenizer, given))
    else:
        most = service.vocabulary
        if most and (wrong := next((i for i in given if i >= most), None)) is not None:
            raise RequestError(f"prompt: there is no token {wrong}; {most} are known", "prompt")
        plain = Plain(tokenizer.decode(given, special=True), given)
    if not plain.ids:
        raise RequestError("prompt is empty: there is nothing to go on with", "prompt")
    if len(plain.ids) >= service.context:
        raise ContextLengthError(service.context, len(plain.ids))
    return plain


def _encoded(tokenizer: Any, text: str) -> list[int]:
    if not isinstance(tokenizer, Tokenizer):
        return list(tokenizer.encode(text))
    prefix = list(tokenizer.settings.prefix or ())
    ids = tokenizer.encode_marked(text)
    return ids if ids[: len(prefix)] == prefix else [*prefix, *ids]


async def with_likelihoods(service: Service, weights: str, plain: Plain, top: int) -> Plain:
    """Return a prompt with its tokens' log-probabilities.

    Raises RequestError if they would take too much memory.
    """
    size = 4 * max(service.vocabulary, 1)
    if len(plain.ids) * size > LOGITS:
        raise RequestError(
            f"echo with logprobs: this prompt has {len(plain.ids)} tokens; with this model at most "
            f"{LOGITS // size} can be told",
            "logprobs",
        )
    work = partial(service.model.logits, plain.ids, weights)
    logits = await asyncio.wrap_future(service.engine.call(work))
    likely = await asyncio.to_thread(_likelihoods, logits, plain.ids, top)
    return Plain(plain.text, plain.ids, likely)


def _likelihoods(logits: "np.ndarray", ids: list[int], top: int) -> list[TokenLogprob]:
    """Return the log-probabilities of ids[1:], of which logits (T, V) tell."""
    return [token_logprob(row, token, top) for row, token in zip(logits, ids[1:], strict=False)]
