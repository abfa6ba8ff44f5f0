"""One question and its answers: from the typed request to the rows in the ledger.

A row is written when all answers are complete and before their last byte is sent, so that whoever
has read an answer to its end finds it in the ledger, whatever happens to the machine. An answer
that the caller broke off is written too, as far as it came.

Invariant: `finish` returns only after the ledger has committed a turn for every choice, unless the
request is off the record: of that nothing is written.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from homebox.api.acting import Lessons
from homebox.api.conversation import Conversation, logged
from homebox.api.plain import AUTHOR, Plain
from homebox.api.recall import TurnRecall
from homebox.api.record import ON_RECORD, Record
from homebox.api.reply import Reply, details
from homebox.api.requests import ChatMessage, ChatRequest
from homebox.api.served import Lease
from homebox.memory.ledger import Ledger
from homebox.memory.provenance import ASSISTANT
from homebox.memory.turns import Message, Turn, new_turn_id, now
from homebox.model.answers import Event
from homebox.model.generation.logprobs import TokenLogprob
from homebox.model.tokenizer import StreamDecoder, Tokenizer
from homebox.scheduler import CANCELLED, ERROR, Generation, Said


@dataclass(slots=True)
class Choice:
    """One of the answers to a question."""

    index: int
    generation: Generation
    reply: Reply
    id: str = field(default_factory=new_turn_id)
    plain: Plain | None = None  # the prompt of its own that it answers
    tokenizer: object = None  # the model's, to count thoughts by

    @property
    def reason(self) -> str:
        """Why it ended, in OpenAI's words."""
        end = self.generation.end
        return self.reply.reason(end.finish_reason) if end else ERROR

    @property
    def tokens(self) -> int:
        """How many tokens were made, once it has ended."""
        return self.generation.end.completion_tokens if self.generation.end else 0

    @property
    def thinking_tokens(self) -> int:
        """How many tokens came before the end of its thoughts, once it has ended.

        Counted by the ids alone: how many of them come at once depends on time.
        """
        place, tokenizer = self.reply.thoughts_end, self.tokenizer
        if not place or self.generation.end is None or not isinstance(tokenizer, Tokenizer):
            return 0
        request = self.generation.request
        shown = request.sampling.shown
        goes_on = tokenizer.is_text(request.prompt_ids[-1])
        decoder = StreamDecoder(tokenizer, continuation=goes_on, shown=shown)
        length = 0
        for count, index in enumerate(self.generation.ids):
            length += len(decoder.push(index))
            if length >= place:
                # A mark may complete what the thought left open, but is none of it.
                return count + (index not in shown)
        return len(self.generation.ids)


@dataclass(frozen=True, slots=True)
class Step:
    """What came next of one of the choices."""

    choice: Choice
    events: list[Event]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Usage:
    """The tokens that were read and written."""

    prompt: int
    completion: int
    cached: int  # of the prompt, that were not computed again
    reasoning: int

    def as_json(self) -> dict[str, Any]:
        """Return OpenAI's shape."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning},
        }


@dataclass
class Exchange:
    """Running answers, everything that their ledger rows need, and what they hold."""

    request: ChatRequest
    conversation: Conversation
    owner: str
    lease: Lease
    choices: list[Choice]
    ledger: Ledger
    recall: TurnRecall | None = None
    record: Record = ON_RECORD
    asked: list[ChatMessage] | None = None  # what of the request is written down; None: all of it
    written: str | None = None  # what stands in the ledger in place of the answer's words
    lessons: Lessons | None = None  # who reads the turns that were written
    time: str = field(default_factory=now)
    finished: bool = False

    @property
    def id(self) -> str:
        """The id of the first choice's turn, by which the whole is known."""
        return self.choices[0].id

    @property
    def fingerprint(self) -> str:
        """What the answers depend on besides the request: the weights."""
        return f"hb_{self.lease.weights[:16]}"

    @property
    def created(self) -> int:
        """When it began; Unix seconds."""
        return int(datetime.fromisoformat(self.time).timestamp())

    @property
    def prompt_tokens(self) -> int:
        """The length of the prompt."""
        return len(self.choices[0].generation.request.prompt_ids)

    @property
    def usage(self) -> Usage:
        """The tokens that the model read and wrote; complete once the answers have ended."""
        # Several answers to one prompt read it once.
        prompts = {id(choice.generation.prompt_ids): choice for choice in reversed(self.choices)}
        ends = [choice.generation.end for choice in prompts.values()]
        return Usage(
            sum(len(choice.generation.prompt_ids) for choice in prompts.values()),
            sum(choice.tokens for choice in self.choices),
            sum(end.cached_tokens for end in ends if end),
            sum(choice.thinking_tokens for choice in self.choices),
        )

    async def steps(self, patience: float) -> AsyncGenerator[Step | None, None]:
        """Give what comes; None after `patience` seconds without anything that can be shown."""
        clock = asyncio.get_running_loop().time
        told = clock()
        async with contextlib.aclosing(self._said(patience)) as parts:
            async for choice, said in parts:
                events = choice.reply.end() if said is None else choice.reply.read(said.text)
                logprobs = said.logprobs if said is not None else ()
                # Text may come and yet wait until it is known what it is.
                if events or logprobs:
                    told = clock()
                    yield Step(choice, events, logprobs)
                elif said is not None and (not said.ids or clock() - told >= patience):
                    told = clock()
                    yield None

    async def _said(self, patience: float) -> AsyncGenerator[tuple[Choice, Said | None], None]:
        """Give the parts of all choices as they come, and None for each at its end."""
        if len(self.choices) == 1:
            (choice,) = self.choices
            while (said := await choice.generation.next(patience)) is not None:
                yield choice, said
            yield choice, None
            return
        came: asyncio.Queue[tuple[Choice, Said | Exception | None]] = asyncio.Queue()

        async def pump(choice: Choice) -> None:
            try:
                while (said := await choice.generation.next(patience)) is not None:
                    await came.put((choice, said))
                await came.put((choice, None))
            except Exception as error:
                await came.put((choice, error))

        pumps = [asyncio.ensure_future(pump(choice)) for choice in self.choices]
        try:
            running = len(pumps)
            while running:
                choice, part = await came.get()
                if isinstance(part, Exception):
                    raise part
                running -= part is None
                yield choice, part
        finally:
            for task in pumps:
                task.cancel()

    async def finish(self) -> None:
        """Write the ended answers to the ledger."""
        await self._write([choice.reason for choice in self.choices])

    async def abandon(self) -> None:
        """Stop answers that nobody reads any more, and write down what there was of them."""
        reasons = []
        for choice in self.choices:
            choice.generation.cancel()
        for choice in self.choices:
            with contextlib.suppress(Exception):
                choice.reply.read(await choice.generation.drain())
                choice.reply.end()
            end = choice.generation.end
            failed = end is not None and end.finish_reason == ERROR
            reasons.append(ERROR if failed else CANCELLED)
        await self._write(reasons)

    async def _write(self, reasons: list[str]) -> None:
        if self.finished:
            return
        self.finished = True
        self.lease.release()
        if not self.record.off:
            await self._write_turns(reasons)
        if self.recall is not None:
            for choice in self.choices:
                reply = choice.reply
                ids = choice.generation.ids
                self.recall.add(self.owner, ids, reply.text, reply.calls, reply.thoughts)

    async def _write_turns(self, reasons: list[str]) -> None:
        turns = [
            self.ledger.submit(self._turn(choice, reason))
            for choice, reason in zip(self.choices, reasons, strict=True)
        ]
        # Shielded: a caller who leaves now must not keep the rows from being written.
        await asyncio.shield(asyncio.gather(*(asyncio.wrap_future(turn) for turn in turns)))
        if self.lessons is not None:
            for choice in self.choices:
                self.lessons.notice(choice.id)

    def _turn(self, choice: Choice, reason: str) -> Turn:
        reply, generation = choice.reply, choice.generation
        asked = self.request.messages if self.asked is None else self.asked
        if choice.plain is not None:
            asked = [ChatMessage("user", choice.plain.text, provenance=AUTHOR)]
        prompt = [logged(message) for message in asked]
        answer = Message("assistant", reply.text, ASSISTANT, reply.details())
        if self.written is not None:
            answer = Message("assistant", self.written, ASSISTANT)
        return Turn(
            id=choice.id,
            time=self.time,
            conversation=self.conversation.id,
            kind=self.conversation.kind,
            model=self.request.model,
            adapter=self.lease.weights,
            sampling=generation.request.sampling.as_dict(),
            messages=(*prompt[_new_from(asked) :], answer),
            prompt=tuple(prompt),
            offered=details(self.request.offered()),
            finish_reason=reason,
            prompt_tokens=len(generation.prompt_ids),
            completion_tokens=choice.tokens,
            token_ids=tuple(generation.ids),
            owner=self.owner,
            parent=self.conversation.parent,
        )


def _new_from(messages: list[ChatMessage]) -> int:
    """Find the first message that came after the last answer in the history."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].role == "assistant":
            return index + 1
    return 0
