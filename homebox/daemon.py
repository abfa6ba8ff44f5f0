"""The daemon: wires state, model, engine thread, HTTP server and control socket together.

Start is in the order in which things can be refused (state, model, HEAD's weights, port), so that
whoever is turned away has changed nothing; stop is the reverse, and lets running answers end.

Invariant: what "homebox" means in the server is what HEAD names, except between a move of HEAD and
the next step of the engine thread, which follows it.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import homebox
from homebox import log_lines
from homebox.api.tls import tls_of
from homebox.api.tokens import TOKEN, KeyRing, open_keys
from homebox.config import Config
from homebox.control import ControlServer, Tell
from homebox.errors import ConfigError, UsageError
from homebox.hosting.hosted import Hosted, bare_line
from homebox.hosting.listening import Listening
from homebox.hosting.notifier import Notifier as Notifier
from homebox.hosting.parts import Outcome, ServedModel
from homebox.hosting.parts import Parts as Parts
from homebox.hosting.parts import load_model as load_model
from homebox.hosting.parts import most_rank as most_rank
from homebox.hosting.parts import plain as plain
from homebox.hosting.parts import real_parts as real_parts
from homebox.hosting.sleeper import Sleeper
from homebox.hosting.swapping import timed
from homebox.hosting.switching import Hosting
from homebox.hosting.upkeep import let_go
from homebox.learning.lessons import deciding
from homebox.learning.lessons.forgetting import said_target
from homebox.learning.lessons.live import live_lessons, rules_of
from homebox.memory.lineage import Move, short
from homebox.memory.state import State, open_state
from homebox.night.night import Night
from homebox.orders import orders
from homebox.scheduler import Engine, run_inline
from homebox.server import Server, ServerSettings

log = logging.getLogger("homebox.daemon")

T = TypeVar("T")
# Seconds for which one thread of Python may keep the others waiting: what prepares learning beside
# an answer would else cost that one Python's usual 5 ms at every call into compiled code.
HANDOVER = 0.0002
ROLLED_BACK = "learning was stopped by a rollback; nothing was promoted"
FORGOTTEN = "learning was stopped, as something is to be forgotten; nothing was promoted"
PAUSED = "paused by the owner"
STOPPED = (
    "learning was stopped by the owner; nothing was promoted, and what was done is kept: "
    '"homebox learn --now" goes on from there'
)
IMPORTED = "learning was stopped by an import; nothing was promoted"


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
            open_state(config.state_dir, config.state_configured, redact=config.ledger.redact)
        )
        self._keys = keys_of(config, self.state.path, self._token)
        self._settings = settings = server_settings(config, self._keys)
        rules = rules_of(self.state.path, config.lessons.rules)
        for problem in rules.problems:
            log.warning("a file of rules does not count: %s", problem)
        live = live_lessons(self.state.ledger, rules)
        listening = Listening(self.state.ledger, live)
        self._closing.callback(listening.close)
        self._hosting = Hosting(config, self.state, self._parts, self._notifier, listening)
        listening.forgot = self._hosting.forget_prefixes
        self._closing.push_async_callback(self._hosting.close)
        hosted = await self._hosting.begin()
        server = Server(hosted.service, settings, self._hosting.metrics)
        self._hosting.through(server.door)
        self.url = await server.start()
        self._closing.push_async_callback(server.stop)
        upkeep = asyncio.ensure_future(let_go(self.state.ledger, config.ledger.keep_days))
        self._closing.callback(upkeep.cancel)
        control = ControlServer(self.state.path, orders(self))
        await control.start()
        self._closing.push_async_callback(control.stop)
        listening.start()
        sleeper = Sleeper(lambda: self.engine, lambda: self.learn(lambda _: None))
        self._night = Night(config.schedule, sleeper)
        night = asyncio.ensure_future(self._night.watch())
        self._closing.callback(night.cancel)

    async def stop(self) -> None:
        """Let running answers end, then close everything."""
        self._notifier.send("STOPPING=1")
        self._hosting.closing()
        await self._closing.aclose()

    @property
    def token(self) -> str:
        """The key that callers on this machine use; empty where none is asked for."""
        return self._keys.primary if self._config.server.require_token else ""

    @property
    def certificate(self) -> str:
        """The file of the certificate that callers have to trust; empty without TLS."""
        return str(self._settings.tls.certificate) if self._settings.tls else ""

    def reload_tls(self) -> None:
        """Read certificate and key again; what cannot be used is logged, and the old ones stay."""
        try:
            if self._settings.tls is not None:
                self._settings.tls.reload()
        except ConfigError as error:
            log.error("%s; the certificate before it stays", error)

    @property
    def model(self) -> ServedModel:
        """The model that serves; raises BusyError in the middle of a switch."""
        return self._hosting.hosted.model

    @property
    def engine(self) -> Engine:
        """The thread of the model that serves; raises BusyError in the middle of a switch."""
        return self._hosting.hosted.engine

    @property
    def greeting(self) -> list[str]:
        """What a person is told at the start."""
        about = self._hosting.about
        lines = [
            f"homebox serves {about.model} ({short(self._hosting.hosted.served.current)}) on "
            f"{self.url}/v1, context {about.context}, state {self.state.path}"
        ]
        if self.token and not self._token:
            lines.append(
                f'clients need the key in {self.state.path / TOKEN}; "homebox connect opencode", '
                '"homebox connect openclaw" or "homebox connect openai" (any other) tells them'
            )
        lines += [line for line in (about.kept, *about.plan, self._hosting.trouble) if line]
        bare = bare_line(self.state.lineage, about.base)
        return [*lines, *([bare] if bare else []), *self._hosting.first_steps()]

    def status(self) -> dict[str, Any]:
        """Say what runs, as plain JSON."""
        return {
            "running": True,
            "pid": os.getpid(),
            "version": homebox.__version__,
            "url": self.url,
            "uptime_s": round(time.time() - self._begun, 1),
            **self._hosting.status(),
            **memory_status(self.state),
            "night": self._night.as_json(),
        }

    async def use(
        self, name: str, tell: Tell = lambda _: None, kept: str = "", context: int = 0
    ) -> dict[str, Any]:
        """Serve another model, now and at the next start; see `Hosting.use`."""
        return await self._hosting.use(name, tell, kept, context)

    async def learn(self, tell: Callable[[Any], None]) -> Any:
        """Run one learning run between the answers; gives its report, after the swap."""
        hosted = self._hosting.hosted
        self._hosting.refuse_in_swap()
        learning = hosted.engine.learn(self._learning(hosted))
        unlisten = learning.listen(tell)
        try:
            return await asyncio.wrap_future(learning.result)
        finally:
            unlisten()

    async def steer(self, order: str) -> dict[str, Any]:
        """Pause, resume or stop the learning run; gives whether one runs and why it waits."""
        engine = self.engine
        if order == "pause":
            learning = engine.pause_learning(PAUSED)
        elif order == "resume":
            learning = engine.resume_learning()
        elif order == "stop":
            learning = engine.stop_learning(STOPPED)
        else:
            raise UsageError(f'learning can be told "pause", "resume" or "stop", not {order!r}')
        if learning is None:
            raise UsageError('nothing is being learned now; "homebox status" says when it will be')
        return {"order": order, "paused": learning.pause_reason, "at": plain(learning.progress)}

    async def run_job(self, job: Any, tell: Callable[[Any], None]) -> str:
        """Run a learning job again between the answers; gives the weights hash. Serves nothing."""
        from homebox.learning.jobs.job import execute

        hosted = self._hosting.hosted
        learning = hosted.engine.learn(execute(cast(Any, hosted.model), self.state.store, job))
        unlisten = learning.listen(tell)
        try:
            return str(await asyncio.wrap_future(learning.result))
        finally:
            unlisten()

    async def preview(self) -> Any:
        """Find the lessons without learning them."""
        steps = self._run_learner(self._hosting.hosted, dry_run=True)
        return await asyncio.to_thread(run_inline, steps, lambda _: None)

    async def rollback(self, name: str, reason: str) -> Move:
        """Serve earlier weights; a running learning run is stopped first."""
        async with self._hosting.steady() as hosted:
            lineage, base = self.state.lineage, hosted.model.base_hash
            target = await asyncio.to_thread(lineage.resolve, base, name)
            await hosted.stop_learning(ROLLED_BACK)
            move = await asyncio.to_thread(lineage.rollback, base, target, reason)
            await hosted.reload()
            return move

    async def import_adapter(self, path: str, name: str, reason: str, promote: bool) -> Any:
        """Keep an adapter's files as a checkpoint, and serve it if `promote`."""
        from homebox.learning.jobs.exchange import Base, import_adapter

        async with self._hosting.steady() as hosted:
            model = hosted.model
            base = Base(model.config, model.base_hash, hosted.about.model)
            if promote:
                await hosted.stop_learning(IMPORTED)
            most = most_rank(self._config)
            found = await asyncio.to_thread(
                import_adapter, self.state, base, Path(path), name, reason, promote, most
            )
            if promote:
                await hosted.reload()
            return found

    async def reload(self) -> str:
        """Serve what HEAD names; gives its hash."""
        async with self._hosting.steady() as hosted:
            return await hosted.reload()

    async def decide(self, action: str, prefix: str) -> dict[str, Any]:
        """Approve or reject a lesson."""
        return await asyncio.to_thread(deciding.decide, self.state.ledger, action, prefix)

    async def edit(self, prefix: str, value: str) -> dict[str, Any]:
        """Give a lesson's topic another value."""
        return await asyncio.to_thread(deciding.edit, self.state.ledger, prefix, value)

    async def remember(self, text: str) -> dict[str, Any]:
        """Keep what the owner said outright."""
        return await asyncio.to_thread(deciding.remember, self.state.ledger, text)

    async def forget(self, name: str, everywhere: bool) -> dict[str, Any]:
        """Forget for good; a running learning run, which has read it, is stopped first."""
        async with self._hosting.steady() as hosted:
            await asyncio.to_thread(deciding.forgets, self.state.ledger, name)  # or refuse now
            await hosted.stop_learning(FORGOTTEN)
            ledger, lineage = self.state.ledger, self.state.lineage
            found = await asyncio.to_thread(deciding.forgotten, ledger, lineage, name, everywhere)
            self._hosting.forget_prefixes()
            return found

    async def delete(self, name: str) -> dict[str, Any]:
        """Forget a turn or a conversation, as `forget` does."""
        async with self._hosting.steady() as hosted:
            await asyncio.to_thread(said_target, self.state.ledger, name)  # or refuse now
            await hosted.stop_learning(FORGOTTEN)
            state = self.state
            found = await asyncio.to_thread(deciding.deleted, state.ledger, state.lineage, name)
            self._hosting.forget_prefixes()
            return found

    def _run_learner(self, hosted: Hosted, dry_run: bool = False) -> Generator[Any, None, Any]:
        state = self.state
        return self._parts.learn(
            hosted.model, state.ledger, state.store, state.lineage, self._config, dry_run=dry_run
        )

    def _learning(self, hosted: Hosted) -> Generator[Any, None, Any]:
        """Learn, and swap in the same step in which HEAD moved."""
        report: Outcome
        report, begun = yield from timed(self._run_learner(hosted))
        if report.promoted:
            # Since that step began, which also moved HEAD, nobody was answered.
            swap = hosted.swap(begun)
            if swap is not None and isinstance(data := getattr(report, "data", None), dict):
                data["swap"] = swap
            hosted.tell_notes(report)
        return report


def serve(config: Config, parts: Parts | None = None) -> None:
    """Run a daemon in the foreground until SIGTERM or SIGINT; a second signal does not wait."""
    log_lines.begin()
    # Why a prompt took long is said without being asked.
    logging.getLogger("homebox.prefixes").setLevel(logging.INFO)
    sys.setswitchinterval(HANDOVER)

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
        if daemon.certificate:
            loop.add_signal_handler(signal.SIGHUP, daemon.reload_tls)
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


def keys_of(config: Config, state: Path, token: str) -> KeyRing:
    """Open the keys of a state, and make them where they are asked for.

    `token` is the configured one, or empty. Raises ConfigError if it would not be asked for.
    """
    if config.server.require_token:
        return open_keys(state, token)
    if token:
        raise ConfigError("there is a token, but server.require_token is false; choose one of them")
    return KeyRing(state)


def server_settings(config: Config, keys: KeyRing) -> ServerSettings:
    """Choose the server's settings from the configuration; raises ConfigError."""
    server = config.server
    return ServerSettings(
        host=server.host,
        port=server.port,
        keys=keys,
        require_token=server.require_token,
        lan=server.lan,
        hosts=server.hosts,
        cors_origins=server.cors_origins,
        tls=tls_of(server.tls_cert, server.tls_key),
        max_connections=server.max_connections,
        max_body_bytes=server.max_body_bytes,
        max_waiting=server.max_queue,
    )


def read_token(config: Config) -> str:
    """Give the configured token, or an empty string: then the state has one.

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
