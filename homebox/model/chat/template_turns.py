"""Finds, for training, where each turn lies in a template's text and what of it is a target.

The one idea: a turn is a target only where the conversation shows it as the model would have said
it: templates may rewrite earlier turns, and nobody should learn to say what was rewritten. Shorter
conversations, rendered by the same template, show where turns lie; it needs no other knowledge.
Invariant: the ids before a target are those of the prompt that asks for it.
"""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

from homebox.errors import RequestError
from homebox.model.answers.formats import THOUGHTS
from homebox.model.chat.messages import Message, Rendered, Span, provenance_of
from homebox.model.chat.template import STOPPED
from homebox.model.chat.template_messages import Given, Offer
from homebox.model.tokenizer.base import After, Restore, Tokenizer, any_of

_PROBE = "Zq9x"
# What a turn thinks before it speaks; blanks that follow on the same line belong to its first word.
_THOUGHT = re.compile(
    r"\s*(?:"
    + "|".join(f"{re.escape(begin)}.*?{re.escape(end)}" for begin, end in THOUGHTS)
    + r")\n*",
    re.DOTALL,
)

# The text of messages with tools, which asks for an answer if the flag says so. The same arguments
# always give the same text. Raises RequestError where the template refuses the messages.
Past = Callable[[Given, bool, Offer], str]


def end_of_turn(tokenizer: Tokenizer, past: Past) -> tuple[int, ...]:
    """Return the token that the template writes behind an answer, if it does."""
    given: Given = [{"role": "user", "content": "a"}, {"role": "assistant", "content": _PROBE}]
    try:
        text = past(given, False, None)
    except RequestError:
        return ()
    place = text.rfind(_PROBE)
    rest = text[place + len(_PROBE) :].lstrip() if place >= 0 else ""
    found = tokenizer.marks.match(rest)
    return () if found is None else (tokenizer.special[found.group()],)


class TemplateTurns:
    """Conversations as training data, in the texts of `past`.

    `stop_ids` are the tokens that end a turn; `begin` is what a text may have before its first one.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop_ids: Sequence[int], begin: str, past: Past
    ) -> None:
        self._tokenizer = tokenizer
        self._begin = begin
        self._past = past
        self._marks = tokenizer.marks
        by_id = {index: text for text, index in tokenizer.special.items()}
        self._stops = any_of(by_id[index] for index in stop_ids if index in by_id)

    def render(
        self, messages: Sequence[Message], given: Given, tools: Offer, restore: Restore
    ) -> Rendered:
        """Return ids, mask and spans of messages (see ChatFormat), `given` as templates take them.

        Thoughts are no targets: what a turn is to show is what it says after them. Raises
        RequestError where the template refuses the conversation.
        """
        text = self._past(given, False, tools)
        bounds = self._bounds(given, text, tools)
        targets = []
        for number, message in enumerate(messages):
            if given[number]["role"] == "assistant" and message.get("train", True) is not False:
                targets += self._target(given, number, text, bounds[number], tools)
        ids, mask, index = self._encoded(text, bounds, targets, restore)
        spans = tuple(
            Span(
                index[bounds[number]],
                index[bounds[number + 1]],
                number,
                given[number]["role"],
                provenance_of(message, given[number]["role"]),
            )
            for number, message in enumerate(messages)
        )
        return Rendered(ids, mask, spans)

    def _tried(self, given: Given, prompt: bool, tools: Offer) -> str | None:
        """Return the text of a part of a conversation, None if the template refuses it."""
        try:
            return self._past(given, prompt, tools)
        except RequestError as error:
            if error.code == STOPPED:
                raise
            return None

    def _bounds(self, given: Given, text: str, tools: Offer) -> list[int]:
        """Return where each message begins in the text, and the text's end.

        A part of a conversation that is the beginning of the whole shows it. Where the template
        refuses the part or rewrites it later, the message's own words and the end of its turn do.
        """
        first = len(self._begin) if text.startswith(self._begin) else 0
        known: list[int | None] = [first]
        for count in range(1, len(given)):
            part = self._tried(given[:count], False, tools)
            known.append(len(part) if part is not None and text.startswith(part) else None)
        known.append(len(text))
        bounds = [first]
        for number in range(1, len(known)):
            exact = known[number]
            low = bounds[-1]
            if exact is None or exact < low:
                high = next(b for b in known[number:] if b is not None and b >= low)
                exact = self._guess(given[number - 1]["content"] or "", text, low, high)
            bounds.append(self._snapped(text, exact, low))
        return bounds

    def _guess(self, content: str, text: str, low: int, high: int) -> int:
        """Return where a message of this content probably ends in text[low:high]."""
        words = content.rpartition("</think>")[2].strip()
        place = text.find(words, low, high) if words else -1
        if place < 0:
            return low
        end = place + len(words)
        found = self._stops.match(text, end + len(text[end:high]) - len(text[end:high].lstrip()))
        if found is None or found.end() > high:
            return end
        return found.end() + (1 if text[found.end() : found.end() + 1] == "\n" else 0)

    def _snapped(self, text: str, place: int, low: int) -> int:
        """Return a place behind a steering token where only blanks lie between: a cleaner cut."""
        if place >= len(text) or self._marks.match(text, place):
            return place
        end = len(text[low:place].rstrip()) + low
        return end if end < place and self._behind_mark(text[low:end]) else place

    def _behind_mark(self, text: str) -> bool:
        return any(found.end() == len(text) for found in self._marks.finditer(text))

    def _target(
        self, given: Given, number: int, text: str, low: int, tools: Offer
    ) -> list[tuple[int, int]]:
        """Return from where to where a turn is what the model would have said; empty if nowhere.

        `low` is where its message begins.
        """
        last = number == len(given) - 1
        whole = text if last else self._tried(given[: number + 1], False, tools)
        if whole is None or not text.startswith(whole):
            return []
        prompt = self._tried(given[:number], True, tools)
        if prompt is not None and text.startswith(prompt):
            start = len(prompt)
        else:
            words = (given[number]["content"] or "").strip()
            start = text.find(words, low, len(whole)) if words else -1
        if start < 0:
            return []
        thoughts = _THOUGHT.match(text, start, len(whole))
        start = thoughts.end() if thoughts else start
        ends = [found.end() for found in self._stops.finditer(text, start, len(whole))]
        if not ends and (found := self._stops.match(text, len(whole))):
            ends = [found.end()]  # some templates end a turn where the next one begins
        return [(start, ends[-1] if ends else len(whole))]

    def _encoded(
        self, text: str, bounds: list[int], targets: list[tuple[int, int]], restore: Restore
    ) -> tuple[list[int], list[bool], dict[int, int]]:
        """Return the ids, which of them are targets, and how many lie before each cut.

        The text is cut at the bounds and the ends of targets: no token reaches across them.
        """
        cuts = sorted({0, len(text), *bounds, *(place for target in targets for place in target)})
        ids: list[int] = []
        mask: list[bool] = []
        index = {0: 0}
        after: After = ""
        for start, end in pairwise(cuts):
            part = text[start:end]
            ids += self._tokenizer.encode_marked(part, restore, after)
            learned = any(low <= start < high for low, high in targets)
            mask += [learned] * (len(ids) - len(mask))
            index[end] = len(ids)
            after = "mark" if self._behind_mark(part) else "text"
        return ids, mask, index
