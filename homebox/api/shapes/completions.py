"""Answers of /v1/completions: texts, with the log-probabilities of their tokens.

Invariant: the chunks of a stream, joined, are the texts of the document.
"""

import codecs
from collections.abc import Iterable
from typing import Any

from homebox.api import wire
from homebox.api.exchange import Choice, Exchange, Step
from homebox.api.shapes.logprobs import LEAST, Spelling
from homebox.errors import HomeboxError
from homebox.model.answers import Text
from homebox.model.generation.logprobs import TokenLogprob


class CompletionsShape:
    """OpenAI's text completion; with `echo`, texts begin with their prompts."""

    def __init__(self, exchange: Exchange, spelling: Spelling, echo: bool) -> None:
        self._exchange = exchange
        self._spelling = spelling
        self._echo = echo
        wanted = exchange.request.logprobs
        self._told = {
            choice.index: Likelihoods(spelling) if wanted else None for choice in exchange.choices
        }
        self._said: dict[int, list[TokenLogprob]] = {c.index: [] for c in exchange.choices}

    def begin(self) -> bytes:
        """Return the prompts, where they are wanted."""
        return b"".join(self._opening(choice) for choice in self._exchange.choices)

    def step(self, step: Step) -> bytes:
        """Return a chunk if there is text."""
        told = self._told[step.choice.index]
        if told is not None:
            told.add(step.logprobs)
            self._said[step.choice.index] += step.logprobs
        text = "".join(event.text for event in step.events if isinstance(event, Text))
        return self._chunk(step.choice, text) if text else b""

    def silence(self) -> bytes:
        """Return an empty text: some clients count comments as nothing."""
        return self._chunk(self._exchange.choices[0], "", quiet=True)

    def end(self) -> bytes:
        """Return the reasons, the usage if it was asked for, and the end mark."""
        choices = self._exchange.choices
        chunks = [self._chunk(choice, "", reason=choice.reason) for choice in choices]
        if self._exchange.request.include_usage:
            usage = self._exchange.usage.as_json()
            chunks.append(wire.event(self._value([], usage=usage)))
        return b"".join((*chunks, wire.DONE))

    def failure(self, error: HomeboxError) -> bytes:
        """Return the error."""
        return wire.event(wire.error_value(error))

    def whole(self) -> dict[str, Any]:
        """Return the completion."""
        choices = []
        for choice in self._exchange.choices:
            told = self._told[choice.index]
            opening = self._prompt(choice)
            if told is not None:
                told = Likelihoods(self._spelling)
                if self._echo and choice.plain is not None:
                    told.add_prompt(choice.plain.ids, choice.plain.likely)
                told.add(self._said[choice.index])
            said = self._part(choice, opening + choice.reply.text, choice.reason)
            choices.append({**said, "logprobs": told.take() if told is not None else None})
        return self._value(choices, usage=self._exchange.usage.as_json())

    def _prompt(self, choice: Choice) -> str:
        return choice.plain.text if self._echo and choice.plain is not None else ""

    def _opening(self, choice: Choice) -> bytes:
        told = self._told[choice.index]
        if not self._echo or choice.plain is None:
            return b""
        if told is not None:
            told.add_prompt(choice.plain.ids, choice.plain.likely)
        return self._chunk(choice, choice.plain.text)

    def _chunk(
        self, choice: Choice, text: str, reason: str | None = None, quiet: bool = False
    ) -> bytes:
        told = self._told[choice.index]
        logprobs = told.take() if told is not None and told.waiting and not quiet else None
        return wire.event(self._value([self._part(choice, text, reason, logprobs)]))

    def _part(
        self,
        choice: Choice,
        text: str,
        reason: str | None,
        logprobs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        return {
            "index": choice.index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": reason,
        }

    def _value(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        exchange = self._exchange
        return {
            "id": f"cmpl-{exchange.id}",
            "object": "text_completion",
            "created": exchange.created,
            "model": exchange.request.model,
            "system_fingerprint": exchange.fingerprint,
            "choices": choices,
            **more,
        }


class Likelihoods:
    """Tokens with their log-probabilities, and where in the text each begins."""

    def __init__(self, spelling: Spelling) -> None:
        self._spelling = spelling
        self._entries: list[tuple[int, TokenLogprob | None]] = []
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def add_prompt(self, ids: list[int], likely: Iterable[TokenLogprob]) -> None:
        """Take a prompt; nothing is known of how likely its first token was."""
        self._entries += zip(ids, (None, *likely), strict=False)

    def add(self, likely: Iterable[TokenLogprob]) -> None:
        """Take tokens of an answer."""
        self._entries += ((each.token, each) for each in likely)

    @property
    def waiting(self) -> bool:
        """Whether something came since the last time."""
        return bool(self._entries)

    def take(self) -> dict[str, Any]:
        """Return what came since the last time."""
        entries, self._entries = self._entries, []
        offsets = []
        for token, _ in entries:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(self._spelling(token)))
        return {
            "tokens": [self._name(token) for token, _ in entries],
            "token_logprobs": [_bounded(likely) for _, likely in entries],
            "top_logprobs": [self._top(likely) for _, likely in entries],
            "text_offset": offsets,
        }

    def _top(self, likely: TokenLogprob | None) -> dict[str, float] | None:
        """Return the likeliest tokens and the one that came; of equal names the likeliest."""
        if likely is None:
            return None
        top: dict[str, float] = {}
        for token, logprob in (*likely.top, (likely.token, likely.logprob)):
            top.setdefault(self._name(token), max(logprob, LEAST))
        return top

    def _name(self, token: int) -> str:
        """Return a token's text; bytes that are none by themselves are written out."""
        data = self._spelling(token)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _bounded(likely: TokenLogprob | None) -> float | None:
    return None if likely is None else max(likely.logprob, LEAST)
