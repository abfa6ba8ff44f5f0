"""`homebox doctor`: what this machine offers, what homebox needs, and what to do about the rest."""

import argparse
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from homebox import __version__
from homebox.commands.common import (
    Subparsers,
    add_command,
    configuration,
    daemon_of,
    print_json,
    print_table,
)
from homebox.config import Config
from homebox.errors import HomeboxError

if TYPE_CHECKING:
    from homebox.commands.doctor_devices import Machine

LIBRARIES = (
    *("aiohttp", "jinja2", "llguidance", "llvmlite", "msgspec", "numpy", "prometheus_client"),
    *("safetensors", "sentencepiece", "tokenizers"),
)


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `advice` says what to do if it is not well."""

    name: str
    ok: bool
    found: str
    advice: str = ""


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = add_command(
        subparsers,
        "doctor",
        run,
        "examine this machine and its devices; exits 1 if something that homebox needs is missing",
        "homebox doctor --json",
        model=True,
    )
    parser.add_argument("--quick", action="store_true", help="measure nothing")
    parser.add_argument(
        "--again", action="store_true", help="probe devices anew, whatever was found before"
    )


def run(args: argparse.Namespace) -> int:
    """Look at everything and print it."""
    config = configuration(args)
    checks = [Check("homebox", True, __version__), _python(), _platform()]
    checks += [_library(name) for name in LIBRARIES]
    checks += [_guarded("cpu", _cpu), _guarded("threads", _threads)]
    checks += [_writable("state", config.state_dir), _writable("cache", _cache(config))]
    checks += [
        _guarded("model", lambda: _model(config)),
        _guarded("daemon", lambda: _daemon(config)),
    ]
    machine = _devices(args)
    well = all(check.ok for check in checks) and (machine is None or machine.usable)
    if args.json:
        found = {"ok": well, "checks": [asdict(check) for check in checks]}
        if machine is not None:
            from homebox.commands.doctor_devices import as_json

            found |= as_json(machine)
        print_json(found)
    else:
        print_table([("ok" if c.ok else "!!", c.name, c.found) for c in checks])
        for check in checks:
            if not check.ok and check.advice:
                print(f"{check.name}: {check.advice}")
        if machine is not None:
            from homebox.commands.doctor_report import lines

            print("\n".join(lines(machine)))
    return 0 if well else 1


def _devices(args: argparse.Namespace) -> "Machine | None":
    """Look at processors and graphics cards; None where the engine cannot even be imported."""
    try:
        from homebox.commands.doctor_devices import gather
        from homebox.engine.opencl.system import System
    except ImportError:  # a missing library, which has a line of its own
        return None
    shown = Progress()
    try:
        return gather(System(), shown.say, quick=args.quick, again=args.again)
    finally:
        shown.clear()


class Progress:
    """Says on stderr what is being done: one line that changes, or lines if it is no terminal."""

    def __init__(self) -> None:
        self._changes = sys.stderr.isatty()
        self._said = ""

    def say(self, text: str) -> None:
        """Show what is done now."""
        if self._changes:
            sys.stderr.write(f"\r\x1b[K{text[:99]}")
            sys.stderr.flush()
        # Trials of one device follow one another quickly; a log needs only the first.
        elif (head := text.partition(": ")[0]) != self._said:
            self._said = head
            print(f"{text} ..", file=sys.stderr)

    def clear(self) -> None:
        """Take the changing line away."""
        if self._changes:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check("python", ok, platform.python_version(), "install Python 3.11 or newer")


def _platform() -> Check:
    machine = platform.machine()
    ok = sys.platform == "linux" and machine in ("x86_64", "aarch64")
    return Check(
        "platform",
        ok,
        f"{platform.system()} {platform.release()} {machine}",
        "homebox computes on Linux on x86-64 and AArch64; elsewhere it can only be imported",
    )


def _library(name: str) -> Check:
    try:
        return Check(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, "missing", f"run: pip install {name}")


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    """Look at something that may fail in its own words."""
    try:
        return look()
    except HomeboxError as error:
        return Check(name, False, "not usable", str(error))
    except ImportError as error:
        return Check(name, False, "not usable", f"{error}; install the missing library")


def _cpu() -> Check:
    from homebox.engine.codegen.cpu import detect

    target = detect()
    chosen = "avx2 fma avxvnni avx512f avx512vnni avx512bf16 neon dotprod i8mm bf16".split()
    features = [name for name in chosen if target.has(name)]
    return Check("cpu", True, " ".join([target.name, f"level {target.level}", *features]))


def _threads() -> Check:
    from homebox.engine.runtime.runtime_cpu import thread_count

    return Check("threads", True, f"{thread_count()} of {os.cpu_count()}")


def _cache(config: Config) -> Path:
    given = os.environ.get("HOMEBOX_CACHE_DIR", "")
    return Path(given) if given else config.cache_dir


def _writable(name: str, path: Path) -> Check:
    """See whether a directory is there, or can be made, and be written."""
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    ok = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    found = str(path) if path.exists() else f"{path} (not made yet)"
    return Check(name, ok, found, f"{place} cannot be written; choose another place")


def _model(config: Config) -> Check:
    """Read the model whole, and what was packed of it, which no start does."""
    from homebox.engine.graph.formats import WEIGHTS
    from homebox.model.loading.open_model import open_model, open_weights
    from homebox.model.weights.packed_weights import find_packed

    loaded = open_model(config.model.path)
    weights = open_weights(config.model.path)
    weights.check()
    size = loaded.config.parameters / 1e6
    used = loaded.config.used / 1e6
    mixed = "" if used == size else f" ({used:.1f} of them for a token)"
    found = f"{config.model.path}, {size:.1f} million weights{mixed}, base {loaded.base_hash[:12]}"
    for name, form in WEIGHTS.items():
        packed = find_packed(weights, form)
        if packed is not None:
            packed.verify()
            found += f", packed as {name} ({packed.nbytes / 1e6:.1f} MB)"
    return Check("model", True, found)


def _daemon(config: Config) -> Check:
    client = daemon_of(config)
    if client is None:
        return Check("daemon", True, "none runs on this state")
    status = client.call("status")
    return Check("daemon", True, f"pid {status['pid']} on {status['url']}/v1")
