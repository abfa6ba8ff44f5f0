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
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import homebox
from homebox import log_lines
from homebox.api.tls import tls_of
from homebox.api.tokens import TOKEN, KeyRing
from homebox.config import Config
from homebox.control import ControlServer
from homebox.errors import ConfigError
from homebox.hosting.access import keys_of, read_token
from homebox.hosting.acts import Acts
from homebox.hosting.hosting import Hosting
from homebox.hosting.listening import Listening
from homebox.hosting.notifier import Notifier
from homebox.hosting.parts import Parts, ServedModel
from homebox.hosting.parts import real_parts as real_parts
from homebox.hosting.sleeper import Sleeper
from homebox.hosting.standing import bare_line, memory_status
from homebox.hosting.telling import first_steps, status_of
from homebox.hosting.upkeep import let_go
from homebox.learning.lessons.live import live_lessons, rules_of
from homebox.memory.lineage import Move
from homebox.memory.manifest import short
from homebox.memory.state import open_state
from homebox.night.night import Night
from homebox.night.tonight import FILE as NIGHT
from homebox.orders import orders
from homebox.scheduler import Engine
from homebox.server import Server, ServerSettings

log = logging.getLogger("homebox.daemon")

T = TypeVar("T")
# Seconds for which one thread of Python may keep the others waiting: what prepares learning beside
# an answer would else cost that one Python's usual 5 ms at every call into compiled code.
HANDOVER = 0.0002


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
        self.acts = Acts(config, self.state, self._hosting, self._parts)
        listening.forgetting = self.acts.forget_from_chat
        self._closing.push_async_callback(self._hosting.close)
        hosted = await self._hosting.begin()
        server = Server(hosted.service, settings, self._hosting.metrics)
        self._hosting.through(server.door)
        self.url = await server.start()
        self._closing.push_async_callback(server.stop)
        upkeep = asyncio.ensure_future(let_go(self.state.ledger, config.ledger.keep_days))
        self._closing.callback(upkeep.cancel)
        commands = orders(self.acts, self.status, self.address)
        control = ControlServer(self.state.path, commands)
        await control.start()
        self._closing.push_async_callback(control.stop)
        listening.start()
        sleeper = Sleeper(lambda: self.engine, lambda: self.acts.learn(lambda _: None))
        self._night = Night(config.schedule, sleeper, kept=self.state.path / NIGHT)
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

    def address(self) -> dict[str, str]:
        """Say how callers on this machine reach the box, as plain JSON."""
        return {"url": self.url, "token": self.token, "certificate": self.certificate}

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
        return [*lines, *([bare] if bare else []), *first_steps(self._config, about.model)]

    def status(self) -> dict[str, Any]:
        """Say what runs, as plain JSON."""
        return {
            "running": True,
            "pid": os.getpid(),
            "version": homebox.__version__,
            "url": self.url,
            "uptime_s": round(time.time() - self._begun, 1),
            **status_of(self._hosting, self.state.lineage),
            **memory_status(self.state),
            "night": self._night.as_json(),
        }


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
        return self._wait(self._daemon.acts.learn(tell))

    def rollback(self, name: str, reason: str) -> Move:
        """Serve earlier weights."""
        return self._wait(self._daemon.acts.rollback(name, reason))

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
