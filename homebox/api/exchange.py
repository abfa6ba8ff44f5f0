"""One question and its answer: from the typed request to the row in the ledger.

The row is written when the answer is complete and before its last byte is sent, so that whoever
has read an answer to its end finds it in the ledger, whatever happens to the machine. An answer
that the caller broke off is written too, as far as it came.

Invariant: `finish` returns only after the ledger has committed the turn.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from homebox.api.reply import Reply, details
from homebox.api.requests import ChatMessage, ChatRequest
from homebox.api.responses import Answer, usage
from homebox.api.served import Lease
from homebox.memory.ledger import Ledger, Message, new_turn_id, now
from homebox.memory.provenance import ASSISTANT, provenance_of
from homebox.scheduler import CANCELLED, ERROR, Generation

CONVERSATION_HEADERS = ("x-homebox-conversation", "x-session-id", "x-session-affinity")


@dataclass
class Exchange:
    """A running answer, everything that its ledger row needs, and what it holds."""

    request: ChatRequest
    conversation: str
    lease: Lease
    generation: Generation
    reply: Reply
    ledger: Ledger
    id: str = field(default_factory=new_turn_id)
    time: str = field(default_factory=now)
    finished: bool = False

    @property
    def answer(self) -> Answer:
        """What every part of the response repeats."""
        return Answer(self.id, self.request.model, self._created, self.lease.weights)

    @property
    def _created(self) -> int:
        return int(datetime.fromisoformat(self.time).timestamp())

    @property
    def usage(self) -> dict[str, int]:
        """The tokens that the model read and wrote; complete once the answer has ended."""
        end = self.generation.end
        return usage(len(self.generation.prompt_ids), end.completion_tokens if end else 0)

    async def deltas(self, patience: float) -> AsyncIterator[list[dict[str, Any]]]:
        """Give the parts of the answer as they come; none after `patience` seconds without any."""
        clock = asyncio.get_running_loop().time
        told = clock()
        while True:
            text = await self.generation.next(patience)
            if text is None:
                if found := self.reply.end():
                    yield found
                return
            found = self.reply.read(text)
            # Text may come and yet wait until it is known what it is.
            if found or not text or clock() - told >= patience:
                told = clock()
                yield found

    async def finish(self) -> str:
        """Write the ended answer to the ledger; gives the finish reason."""
        reason = self.generation.end.finish_reason if self.generation.end else ERROR
        reason = self.reply.reason(reason)
        await self._write(reason)
        return reason

    async def abandon(self) -> None:
        """Stop an answer that nobody reads any more, and write down what there was of it."""
        self.generation.cancel()
        with contextlib.suppress(Exception):
            self.reply.read(await self.generation.drain())
            self.reply.end()
        end = self.generation.end
        failed = end is not None and end.finish_reason == ERROR
        await self._write(ERROR if failed else CANCELLED)

    async def _write(self, reason: str) -> None:
        if self.finished:
            return
        self.finished = True
        self.lease.release()
        # Shielded: a caller who leaves now must not keep the row from being written.
        await asyncio.shield(asyncio.wrap_future(self.ledger.submit(**self._turn(reason))))

    def _turn(self, reason: str) -> dict[str, Any]:
        prompt = [_message(message) for message in self.request.messages]
        answer = Message("assistant", self.reply.text, ASSISTANT, self.reply.details())
        end = self.generation.end
        return {
            "id": self.id,
            "time": self.time,
            "conversation": self.conversation,
            "model": self.request.model,
            "adapter": self.lease.weights,
            "sampling": self.generation.sampling.as_dict(),
            "messages": [*prompt[_new_from(self.request.messages) :], answer],
            "prompt": prompt,
            "offered": details(self.request.offered()),
            "finish_reason": reason,
            "prompt_tokens": len(self.generation.prompt_ids),
            "completion_tokens": end.completion_tokens if end else 0,
        }


def conversation_id(request: ChatRequest, headers: Mapping[str, str]) -> str:
    """Name the conversation that a request belongs to.

    Clients that say so are believed (a header, or prompt_cache_key without its counter);
    otherwise what came up to the first user message names it, as it stays the same while a
    conversation grows.
    """
    for name in CONVERSATION_HEADERS:
        if headers.get(name):
            return headers[name][:200]
    if request.prompt_cache_key:
        return request.prompt_cache_key.rpartition(":")[0][:200] or request.prompt_cache_key[:200]
    digest = hashlib.sha256()
    for message in request.messages:
        digest.update(f"{message.role}\0{message.text}\0".encode())
        if message.role == "user":
            break
    return digest.hexdigest()[:32]


def _message(message: ChatMessage) -> Message:
    written = message.claimed or provenance_of(message.role)
    return Message(message.role, message.text, written, details(message.details()))


def _new_from(messages: list[ChatMessage]) -> int:
    """Find the first message that came after the last answer in the history."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].role == "assistant":
            return index + 1
    return 0
