"""A question with all that is known of it, and the prompt that it becomes.

The one idea: whose it is, in which conversation, what may be written of it and which notes belong
to it is found out in one place, before anything is asked of the model. Invariant: what cannot be
told for certain to be on the record is refused.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from homebox.api import wire
from homebox.api.acting import SETTLE
from homebox.api.conversation import Conversation, conversation_of, kind_of
from homebox.api.exchange import Choice, Exchange
from homebox.api.record import BY_OWNER, Record, asked_off, said_private, unrecorded_id
from homebox.api.requests import ChatRequest
from homebox.api.served import CURRENT, Lease
from homebox.api.service import Service
from homebox.errors import ContextLengthError, RequestError
from homebox.memory.clients import CHAT
from homebox.memory.forgotten import Spoken
from homebox.memory.turns import new_turn_id
from homebox.model.chat.prompt import ChatPrompt

ANSWER_SHARE = 8  # notes leave at least this part of the context to the answer


@dataclass(frozen=True)
class Asked:
    """A question, whose it is, in which conversation, and what may be written of it."""

    service: Service
    chat: ChatRequest
    conversation: Conversation
    owner: str
    record: Record
    begun: float = field(default_factory=time.monotonic)  # before anything was read for it

    def id(self) -> str:
        """Make the id of one of its answers."""
        return unrecorded_id() if self.record.off else new_turn_id()

    def exchange(self, lease: Lease, choices: list[Choice], **more: Any) -> Exchange:
        """Return the exchange that its answers are."""
        service = self.service
        found = Exchange(
            self.chat, self.conversation, self.owner, lease, choices, service.ledger, **more
        )
        found.record, found.lessons = self.record, service.lessons
        return found


async def asked_of(request: web.Request, service: Service, chat: ChatRequest) -> Asked:
    """Find out whose question it is, in which conversation, and what may be written of it."""
    begun = time.monotonic()
    conversation = conversation_of(chat, request.headers)
    owner = request[wire.OWNER]
    off = asked_off(request.headers, request[wire.PRIVATE])
    said = said_private(chat.messages, conversation)
    history = [Spoken(conversation.id, each.role, each.text) for each in chat.messages[:-1]]
    gaps = await asyncio.to_thread(service.ledger.gaps.shown, history)
    if not off and said is None and conversation.named:
        ledger = service.ledger
        said_before = await asyncio.to_thread(ledger.is_private, conversation.id, owner)
        off = BY_OWNER if said_before else ""
    elif not off and said:
        off = BY_OWNER
    return Asked(service, chat, conversation, owner, Record(off, said is not None or gaps), begun)


async def prompt_of(
    service: Service,
    chat: ChatRequest,
    owner: str,
    bounded: bool = True,
    weights: str | None = None,
) -> ChatPrompt:
    """Return the ids of a question, with the notes that the served model gets.

    Raises RequestError; if it is to be answered, and so `bounded`, also ContextLengthError.
    `weights` are those that answer, if not the current ones.
    """
    variables = chat.variables()
    if chat.offered_tools:
        variables["tools"] = chat.offered_tools
    recall = None if service.recall is None else service.recall.of(owner)
    messages = chat.rendered_messages()
    noted = await asyncio.to_thread(_noted, service, chat, messages, weights)
    if noted is not None:
        # Not every template takes words of the system, and notes must leave room.
        with contextlib.suppress(RequestError):
            prompt = await asyncio.to_thread(service.prompt, noted, recall, **variables)
            if not bounded or _roomy(service, chat, prompt):
                return prompt
    prompt = await asyncio.to_thread(service.prompt, messages, recall, **variables)
    if bounded and len(prompt.ids) >= service.context:
        raise ContextLengthError(service.context, len(prompt.ids))
    return prompt


def _noted(
    service: Service, chat: ChatRequest, messages: list[dict[str, Any]], weights: str | None
) -> list[dict[str, Any]] | None:
    """Return a question with notes; None if none belong there.

    They are for what the owner asks of the assistant: not for the bare base, kept weights, or what
    a client asks on its own.
    """
    memory = service.memory
    if memory is None or chat.model != CURRENT or kind_of(chat) != CHAT:
        return None
    if service.lessons is not None:
        service.lessons.settle(SETTLE)
    noted = memory.noted(messages, service.served.current if weights is None else weights)
    return None if noted == messages else noted


def _roomy(service: Service, chat: ChatRequest, prompt: ChatPrompt) -> bool:
    """Say whether a prompt with notes leaves as much for the answer as it may need."""
    least = service.context // ANSWER_SHARE
    wanted = least if chat.answer_tokens is None else min(chat.answer_tokens, least)
    return len(prompt.ids) + wanted <= service.context
