"""The daemon: wires state, model, engine thread, HTTP server and control socket together.

Start is in the order in which things can be refused (state, model, HEAD's weights, port), so that
whoever is turned away has changed nothing; stop is the reverse, and lets running answers end.

Invariant: what "homebox" means in the server is what HEAD names, except between a move of HEAD and
the next step of the engine thread, which follows it.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import homebox
from homebox.api.served import Adapters, Served
from homebox.config import Config
from homebox.control import ControlServer, Tell
from homebox.errors import ConfigError, UsageError
from homebox.memory.lineage import Move, short
from homebox.memory.manifest import BASE
from homebox.memory.state import State, open_state
from homebox.model.generation.sampling import SamplingParams
from homebox.scheduler import Chunk, Engine, Learning, Running, run_inline
from homebox.server import Server, ServerSettings, Service

T = TypeVar("T")
TELL_SECONDS = 2.0  # between two lines about loading
ROLLED_BACK = "learning was stopped by a rollback; nothing was promoted"
IMPORTED = "learning was stopped by an import; nothing was promoted"


class Chat(Protocol):
    """Turns messages into token ids."""

    def render(self, messages: list[dict[str, Any]]) -> list[int]:
        """Give the prompt's ids."""
        ...


class ServedModel(Protocol):
    """What the daemon needs of a model."""

    @property
    def name(self) -> str:
        """How people call it."""
        ...

    @property
    def config(self) -> Any:
        """Its shape, which adapters must fit."""
        ...

    @property
    def base_hash(self) -> str:
        """sha256 over configuration, weights and tokenizer."""
        ...

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together."""
        ...

    @property
    def chat(self) -> Chat:
        """The chat format."""
        ...

    @property
    def adapters(self) -> Adapters:
        """What can be resident beside the base."""
        ...

    def start(self, prompt_ids: Any, sampling: SamplingParams, adapter: str) -> Running:
        """Begin an answer."""
        ...

    def step(self, sequences: Sequence[Any]) -> Sequence[Chunk | Exception | None]:
        """Take one step of several answers together."""
        ...

    def prepare(self) -> bool:
        """Do a part of what the first answers would wait for."""
        ...


class Outcome(Protocol):
    """The report of a learning run."""

    @property
    def promoted(self) -> bool:
        """Whether HEAD moved."""
        ...


Learner = Callable[..., Generator[Any, None, Any]]
ReadAdapter = Callable[..., tuple[Any, float]]


@dataclass(frozen=True)
class Parts:
    """What the daemon is made of besides its configuration; tests bring their own."""

    load: Callable[[Config], Any]
    learn: Learner
    read_adapter: ReadAdapter


def real_parts() -> Parts:
    """Give the parts that a user gets; imported late, because a compiler comes with them."""
    from homebox import learner
    from homebox.learning.checkpoint import load_adapter

    return Parts(load_model, learner.run, load_adapter)


def load_model(config: Config) -> Any:
    """Load the configured model.

    A context left at its default adapts to a model that was made for less.
    """
    from homebox.model.model import load

    asked = config.model.context
    default = asked == type(config.model)().context
    return load(
        config.model.path,
        context=None if default else asked,
        slots=config.model.slots,
        rank=most_rank(config),
        weights=config.model.weights,
        activations=config.model.activations,
        device=config.model.device,
        memory=config.model.memory,
        tell=loading(),
    )


def most_rank(config: Config) -> int:
    """Return the largest rank of adapters that the configured model is served for."""
    return max(config.model.rank, config.learning.rank)


def loading() -> Callable[[int, int], None]:
    """Return what says how much of the weights is packed, or on a device, where that takes long."""
    last = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= TELL_SECONDS:
            last = time.monotonic()
            text = f"{done >> 20} of {total >> 20} MiB of weights are ready"
            print(f"homebox: {text}", file=sys.stderr, flush=True)

    return tell


@dataclass
class Notifier:
    """Tells the service manager that the daemon is ready and alive (sd_notify(3))."""

    address: str = field(default_factory=lambda: os.environ.get("NOTIFY_SOCKET", ""))
    interval: float = field(
        default_factory=lambda: int(os.environ.get("WATCHDOG_USEC", "0") or "0") / 2e6
    )
    last: float = 0.0

    def beat(self) -> None:
        """Say that the engine thread lives; called by it on every round."""
        now = time.monotonic()
        if self.interval and now - self.last >= self.interval:
            self.last = now
            self.send("WATCHDOG=1")

    def send(self, message: str) -> None:
        """Send one message; without a service manager nothing happens."""
        if not self.address:
            return
        # A leading @ stands for a name in the abstract namespace.
        address = "\0" + self.address[1:] if self.address[0] == "@" else self.address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.sendto(message.encode(), address)


class Daemon:
    """One running box."""

    def __init__(self, config: Config, parts: Parts | None = None, token: str = "") -> None:
        self._config = config
        self._parts = parts or real_parts()
        self._token = token
        self._notifier = Notifier()
        self._begun = time.time()
        self._closing = contextlib.AsyncExitStack()
        self.url = ""

    async def start(self) -> None:
        """Bring everything up; raises StateError, ModelFormatError, DaemonError and the like."""
        try:
            await self._start()
        except BaseException:
            await self._closing.aclose()
            raise
        self._notifier.send("READY=1")

    async def _start(self) -> None:
        config = self._config
        self.state = self._closing.enter_context(
            open_state(config.state_dir, config.state_configured)
        )
        settings = server_settings(config, self._token)
        self.model: ServedModel = await asyncio.to_thread(self._parts.load, config)
        self._engine = Engine(
            self.model,
            max_active=config.model.slots,
            max_waiting=config.server.max_queue,
            heartbeat=self._notifier.beat,
            interrupt=getattr(self.model, "interrupt", None),
        )
        self._closing.callback(self._engine.stop)
        self._served = Served(
            self.model.base_hash,
            self.model.adapters,
            self._engine,
            self.state.lineage,
            lambda weights: self._parts.read_adapter(self.state.store, weights),
        )
        service = Service(
            engine=self._engine,
            served=self._served,
            render=self.model.chat.render,
            ledger=self.state.ledger,
            context=self.model.context,
            created=int(self._begun),
            device=self._device,
        )
        server = Server(service, settings)
        self._engine.start()
        await self.reload()
        self.url = await server.start()
        self._closing.push_async_callback(server.stop)
        control = ControlServer(self.state.path, self._commands())
        await control.start()
        self._closing.push_async_callback(control.stop)

    async def stop(self) -> None:
        """Let running answers end, then close everything."""
        self._notifier.send("STOPPING=1")
        await self._closing.aclose()

    @property
    def greeting(self) -> list[str]:
        """What a person is told at the start."""
        weights = self._served.current
        lines = [
            f"homebox serves {self.model.name} ({short(weights)}) on {self.url}/v1, "
            f"context {self.model.context}, state {self.state.path}"
        ]
        lines += [line for line in (self._kept, *self._plan) if line]
        others = {line["base"] for line in self.state.lineage.reflog()} - {self.model.base_hash}
        if weights == BASE and others and not self.state.lineage.checkpoints(self.model.base_hash):
            lines.append(
                "what was learned belongs to another base model; "
                '"homebox learn --now" teaches it to this one'
            )
        return lines

    @property
    def _device(self) -> str:
        """The devices that hold the model."""
        placement = getattr(self.model, "placement", None)
        return placement.device if placement is not None else "cpu"

    @property
    def _kept(self) -> str:
        """How the weights are kept."""
        return str(getattr(self.model, "kept", ""))

    @property
    def _plan(self) -> list[str]:
        """What lies on which device and why, a line each."""
        placement = getattr(self.model, "placement", None)
        return placement.table() if placement is not None else []

    def status(self) -> dict[str, Any]:
        """Say what runs, as plain JSON."""
        active, waiting = self._engine.load
        learning = self._engine.learning
        return {
            "running": True,
            "pid": os.getpid(),
            "version": homebox.__version__,
            "url": self.url,
            "uptime_s": round(time.time() - self._begun, 1),
            "model": self.model.name,
            "base": self.model.base_hash,
            "context": self.model.context,
            "device": self._device,
            "kept": self._kept,
            "plan": self._plan,
            "weights": self._served.current,
            "answering": active,
            "waiting": waiting,
            "learning": None if learning is None else plain(learning.progress),
            **memory_status(self.state),
        }

    async def learn(self, tell: Callable[[Any], None]) -> Any:
        """Run one learning run between the answers; gives its report, after the swap."""
        learning = self._engine.learn(self._learning())
        unlisten = learning.listen(tell)
        try:
            return await asyncio.wrap_future(learning.result)
        finally:
            unlisten()

    async def preview(self) -> Any:
        """Find the lessons without learning them."""
        return await asyncio.to_thread(run_inline, self._run_learner(dry_run=True), lambda _: None)

    async def rollback(self, name: str, reason: str) -> Move:
        """Serve earlier weights; a running learning run is stopped first."""
        lineage, base = self.state.lineage, self.model.base_hash
        target = await asyncio.to_thread(lineage.resolve, base, name)
        learning = self._engine.stop_learning(ROLLED_BACK)
        if learning is not None:
            await _ended(learning)
        move = await asyncio.to_thread(lineage.rollback, base, target, reason)
        await self.reload()
        return move

    async def import_adapter(self, path: str, name: str, reason: str, promote: bool) -> Any:
        """Keep an adapter's files as a checkpoint, and serve it if `promote`."""
        from homebox.learning.exchange import Base, import_adapter

        model = self.model
        base = Base(model.config, model.base_hash, model.name)
        learning = self._engine.stop_learning(IMPORTED) if promote else None
        if learning is not None:
            await _ended(learning)
        most = most_rank(self._config)
        found = await asyncio.to_thread(
            import_adapter, self.state, base, Path(path), name, reason, promote, most
        )
        if promote:
            await self.reload()
        return found

    async def reload(self) -> str:
        """Serve what HEAD names; gives its hash."""
        return await asyncio.wrap_future(self._engine.call(self._served.switch_to_head))

    async def set_lesson(self, prefix: str, state: str) -> dict[str, Any]:
        """Approve or forget a lesson."""
        return await asyncio.to_thread(set_lesson, self.state, prefix, state)

    def _run_learner(self, dry_run: bool = False) -> Generator[Any, None, Any]:
        state = self.state
        return self._parts.learn(
            self.model, state.ledger, state.store, state.lineage, self._config, dry_run=dry_run
        )

    def _learning(self) -> Generator[Any, None, Any]:
        """Learn, and swap in the same step in which HEAD moved."""
        report: Outcome = yield from self._run_learner()
        if report.promoted:
            self._served.switch_to_head()
        return report

    def _commands(self) -> dict[str, Any]:
        async def status(arguments: Mapping[str, Any], tell: Tell) -> Any:
            return await asyncio.to_thread(self.status)

        async def address(arguments: Mapping[str, Any], tell: Tell) -> Any:
            return {"url": self.url, "token": self._token}

        async def learn(arguments: Mapping[str, Any], tell: Tell) -> Any:
            if arguments.get("dry_run"):
                return plain(await self.preview())
            return plain(await self.learn(lambda progress: tell(plain(progress))))

        async def rollback(arguments: Mapping[str, Any], tell: Tell) -> Any:
            reason = _text(arguments, "reason")
            return plain(await self.rollback(_text(arguments, "name"), reason))

        async def import_adapter(arguments: Mapping[str, Any], tell: Tell) -> Any:
            path, name = _text(arguments, "path"), _text(arguments, "name")
            reason = _text(arguments, "reason")
            promote = bool(arguments.get("promote"))
            return plain(await self.import_adapter(path, name, reason, promote))

        async def reload(arguments: Mapping[str, Any], tell: Tell) -> Any:
            return {"weights": await self.reload()}

        async def lesson(arguments: Mapping[str, Any], tell: Tell) -> Any:
            return await self.set_lesson(_text(arguments, "prefix"), _text(arguments, "state"))

        return {
            "status": status,
            "address": address,
            "learn": learn,
            "rollback": rollback,
            "import_adapter": import_adapter,
            "reload": reload,
            "lesson": lesson,
        }


def serve(config: Config, parts: Parts | None = None) -> None:
    """Run a daemon in the foreground until SIGTERM or SIGINT; a second signal does not wait."""
    logging.basicConfig(level=logging.WARNING, format="homebox: %(name)s: %(message)s")

    async def run() -> None:
        daemon = Daemon(config, parts, read_token(config))
        loop = asyncio.get_running_loop()
        asked = asyncio.Event()

        def stop() -> None:
            if asked.is_set():
                os._exit(130)  # the state bears it: everything acknowledged is on the disk
            asked.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        await daemon.start()
        try:
            for line in daemon.greeting:
                print(line, flush=True)
            await asked.wait()
        finally:
            await daemon.stop()

    asyncio.run(run())


class Box:
    """A daemon in a thread of this process, for callers that are not asynchronous."""

    def __init__(self, daemon: Daemon, loop: asyncio.AbstractEventLoop) -> None:
        self._daemon = daemon
        self._loop = loop

    @property
    def url(self) -> str:
        """Where it listens; the API lies under /v1."""
        return self._daemon.url

    @property
    def daemon(self) -> Daemon:
        """The daemon itself; its coroutines belong to its own loop."""
        return self._daemon

    def learn(self, tell: Callable[[Any], None] = lambda _: None) -> Any:
        """Run one learning run and give its report; `tell` gets its progress."""
        return self._wait(self._daemon.learn(tell))

    def rollback(self, name: str, reason: str) -> Move:
        """Serve earlier weights."""
        return self._wait(self._daemon.rollback(name, reason))

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


@contextlib.contextmanager
def running(config: Config, parts: Parts | None = None) -> Iterator[Box]:
    """Run a daemon in a thread of this process for as long as the block lasts."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="homebox-daemon", daemon=True)
    thread.start()
    try:
        daemon = Daemon(config, parts, read_token(config))
        asyncio.run_coroutine_threadsafe(daemon.start(), loop).result()
        try:
            yield Box(daemon, loop)
        finally:
            asyncio.run_coroutine_threadsafe(daemon.stop(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def server_settings(config: Config, token: str) -> ServerSettings:
    """Choose the server's settings from the configuration."""
    server = config.server
    return ServerSettings(
        host=server.host,
        port=server.port,
        token=token,
        lan=server.lan,
        max_body_bytes=server.max_body_bytes,
    )


def read_token(config: Config) -> str:
    """Give the token that requests must carry, or an empty string.

    It is the configured one, or else the credential "token" of the service manager (systemd's
    LoadCredential), which keeps it out of files that others can read.
    """
    if config.server.token:
        return config.server.token
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    path = Path(folder) / "token"
    if not folder or not path.is_file():
        return ""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the credential {path} cannot be read: {error}") from error
    if not token:
        raise ConfigError(f"the credential {path} is empty")
    return token


def memory_status(state: State) -> dict[str, Any]:
    """Count what a state holds, as plain JSON."""
    lessons: dict[str, int] = {}
    for lesson in state.ledger.lessons():
        lessons[lesson.state] = lessons.get(lesson.state, 0) + 1
    return {"state": str(state.path), "turns": state.ledger.count(), "lessons": lessons}


def set_lesson(state: State, prefix: str, wanted: str) -> dict[str, Any]:
    """Move the lesson whose hash begins with `prefix` to another state."""
    found = state.ledger.find_lessons(prefix) if prefix else []
    if len(found) != 1:
        candidates = ", ".join(short(lesson.hash) for lesson in found[:8])
        problem = f"fits several lessons: {candidates}" if found else "fits no lesson"
        raise UsageError(f'{prefix!r} {problem}; "homebox lessons" lists them')
    state.ledger.set_lesson_state(found[0].hash, wanted)
    changed = dataclasses.replace(found[0], state=wanted)
    return {**dataclasses.asdict(changed), "hash": changed.hash}


def plain(value: Any) -> Any:
    """Turn a dataclass into what JSON can carry; other values stay."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value


async def _ended(learning: Learning) -> None:
    with contextlib.suppress(Exception):
        await asyncio.wrap_future(learning.result)


def _text(arguments: Mapping[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str):
        raise UsageError(f"the command needs {name!r}")
    return value
