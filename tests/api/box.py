"""A whole server around the fake model, in threads of the test's own process."""

import asyncio
import json
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np

from homebox.api.metrics import Metrics
from homebox.api.prompt_memory import PromptMemory
from homebox.api.recall import TurnRecall
from homebox.api.served import Served
from homebox.api.service import Service, unguided
from homebox.hosting.listening import Listening
from homebox.learning.lessons.deciding import forgotten
from homebox.learning.lessons.live import live_lessons
from homebox.memory.manifest import LineageEntry, Manifest
from homebox.memory.state import State, open_state
from homebox.memory.store import canonical_json
from homebox.memory.turns import Turn, now
from homebox.scheduler import Engine
from homebox.server import Server, ServerSettings
from tests.api.fake_model import FakeModel

T = TypeVar("T")


def keep_checkpoint(state: State, base: str, seed: int) -> str:
    """Put a checkpoint that nothing serves yet into the store."""
    tensor = np.full((2, 2), seed, dtype=np.float32)
    job = state.store.put(canonical_json({"seed": seed}))
    return Manifest(base, {"layers.0.q.A": state.store.put(tensor.tobytes())}, job).save(
        state.store
    )


def promote(state: State, base: str, seed: int, lessons: tuple[str, ...] = ()) -> str:
    weights = keep_checkpoint(state, base, seed)
    state.lineage.promote(
        LineageEntry(
            weights=weights,
            parent=state.lineage.head(base),
            base=base,
            ledger_root=state.ledger.root(),
            report=state.store.put(canonical_json({"promoted": True})),
            time=now(),
            reason="test",
            lessons=lessons,
        )
    )
    return weights


def read_tensors(state: State, weights: str) -> tuple[dict[str, np.ndarray], float]:
    manifest = Manifest.load(state.store, weights)
    tensors = {
        name: np.frombuffer(state.store.get(item), dtype=np.float32).reshape(2, 2)
        for name, item in manifest.adapter.items()
    }
    return tensors, 32.0


class Box:
    """Server, engine, state; everything is reached from the test's thread."""

    def __init__(self, root: Path, model: FakeModel | None = None, **settings: Any) -> None:
        self.model = model or FakeModel()
        self.state = open_state(root)
        max_waiting = settings.pop("max_waiting", 16)
        room = settings.pop("notes", 0)  # tokens for lessons in prompts; 0: turns teach nothing
        self.listening: Listening | None = None
        memory = None
        if room:
            ledger = self.state.ledger
            self.listening = Listening(ledger, live_lessons(ledger))
            self.known: set[str] = set()
            encode = self.model.tokenizer.encode
            memory = PromptMemory(
                ledger, lambda _: frozenset(self.known), lambda text: len(encode(text)), room
            )
        self.metrics = Metrics()
        self.engine = Engine(
            self.model,
            max_active=self.model.slots,
            max_waiting=max_waiting,
            observer=self.metrics,
        )
        self.served = Served(
            self.model.base_hash,
            self.model.adapters,
            self.engine,
            self.state.lineage,
            lambda weights: read_tensors(self.state, weights),
        )
        service = Service(
            engine=self.engine,
            served=self.served,
            prompt=self.model.chat.prompt,
            ledger=self.state.ledger,
            context=self.model.context,
            created=1,
            tokenizer=self.model.tokenizer,
            recall=TurnRecall.of_ledger(self.state.ledger),
            model=self.model,
            vocabulary=getattr(getattr(self.model, "config", None), "vocab_size", 256),
            guide=getattr(self.model, "guide", unguided),
            lessons=self.listening,
            memory=memory,
        )
        if self.listening is not None:
            self.listening.forgetting = self._forget
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.engine.start()
        settings = {"port": 0, "patience": 0.05, "drain": 2.0} | settings
        self.server = self.run(self._make(service, ServerSettings(**settings)))
        self.url = self.run(self.server.start())
        self.port = int(self.url.rpartition(":")[2])
        self.http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    async def _make(self, service: Service, settings: ServerSettings) -> Server:
        return Server(service, settings, self.metrics)

    def _forget(self, name: str) -> dict[str, Any]:
        """Forget as a daemon does for a command in a chat."""
        done = forgotten(self.state.ledger, self.state.lineage, name)
        if hasattr(self.model, "forget_prefixes"):
            self.engine.call(self.model.forget_prefixes).result()
        return done

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def chat(self, text: str, **fields: Any) -> httpx.Response:
        return self.http.post("/v1/chat/completions", json=body(text, **fields))

    def turn(self, response: httpx.Response) -> Turn | None:
        return self.state.ledger.turn(response.headers["x-homebox-turn"])

    def close(self) -> None:
        self.http.close()
        self.model.release.set()
        self.run(self.server.stop())
        self.engine.stop()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()
        if self.listening is not None:
            self.listening.close()
        self.state.close()


def body(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "homebox", "messages": [{"role": "user", "content": text}]} | fields


def events(stream: httpx.Response) -> list[Any]:
    """Read a stream to its end as decoded events; [DONE] stays a string."""
    found = []
    for line in stream.iter_lines():
        if line:
            assert line.startswith("data: "), line
            data = line.removeprefix("data: ")
            found.append(data if data == "[DONE]" else json.loads(data))
    return found


def text_of(chunks: list[Any]) -> str:
    return "".join(
        choice["delta"].get("content") or ""
        for chunk in chunks
        if isinstance(chunk, dict)
        for choice in chunk["choices"]
    )
