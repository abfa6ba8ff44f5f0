"""Kernels' texts -> programs of an OpenCL device, with their binaries kept on disk.

One idea: a driver's compiler takes longer to start than to compile a kernel, so the new kernels of
a load are shared out in groups, one program each, built by several threads. On disk a kernel's key
leads to its group, and a group holds source and binary; a binary that the driver refuses is
built from that source again. Invariant: which kernels share a program changes no kernel.
"""

import hashlib
import logging
import re
import struct
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from homebox.engine.codegen.cache import DiskCache, cache_root
from homebox.engine.codegen.cpu import cpu_count
from homebox.engine.opencl.memory import OpenClMemory
from homebox.errors import DeviceError

log = logging.getLogger(__name__)

_FORMAT = 1  # of the entries on disk
_GROUP = 8  # kernels in a program at most
_LOG_LINES = 12  # of a compiler's messages that an error shows
_HELPER = re.compile(r"\bhb_\w+")
_EXCHANGE = re.compile(r"\bhb_exchange(?:_long)?\(.*?, (\d+)u\)")
# These runtimes compile when a binary is asked for, and again for what they run; they keep
# what they compiled on disk themselves.
_KEEPS_ITSELF = ("Portable Computing Language",)


class Code(NamedTuple):
    """A kernel that can be run."""

    name: str
    program: Any  # pyopencl's
    group: tuple[int, int, int]  # work-items


class Builder:
    """A compiler for one device. `built` and `hits` count programs made and found on disk."""

    def __init__(
        self, memory: OpenClMemory, options: Sequence[str] = (), cache: DiskCache | None = None
    ) -> None:
        from homebox.engine.opencl.platform import import_opencl

        self._cl = import_opencl()
        self._memory = memory
        self._options = " ".join(options).encode()
        self.cache = cache or DiskCache(cache_root() / "opencl")
        self.built = 0
        self.hits = 0
        self._lock = threading.RLock()
        self._codes: dict[tuple[str, str], Code] = {}  # by key and name
        self._programs: dict[str, Any] = {}  # by the group's entry
        entry = memory.entry
        parts = (entry.platform, entry.title, entry.version, entry.driver)
        self.identity = "\0".join((str(_FORMAT), *parts, *options))
        self._binaries = entry.platform not in _KEEPS_ITSELF

    def key(self, text: str) -> str:
        """Return the name of a kernel's entry on disk: a hash of all that decides its code."""
        return hashlib.sha256(f"{self.identity}\0{text}".encode()).hexdigest()

    def load(self, texts: Mapping[str, str]) -> dict[str, Code]:
        """Return each kernel; a text defines the kernel of its name.

        Safe to call from several threads. Raises DeviceError, with the first lines of the
        compiler's messages, if a text does not compile.
        """
        keys = {name: self.key(text) for name, text in texts.items()}
        with self._lock:
            missing = {name: text for name, text in texts.items() if not self._have(name, keys)}
            if missing:
                self._build(missing, keys)
            return {name: self._codes[key, name] for name, key in keys.items()}

    def load_objects(self, keys: Mapping[str, str]) -> dict[str, Code] | None:
        """Return each kernel from the disk: its `key` by its name; None if one is not there."""
        with self._lock:
            if not all(self._have(name, keys) for name in keys):
                return None
            return {name: self._codes[key, name] for name, key in keys.items()}

    # -- from the disk --------------------------------------------------------------------------

    def _have(self, name: str, keys: Mapping[str, str]) -> bool:
        """Say whether a kernel is loaded, after trying the disk."""
        key = keys[name]
        if (key, name) in self._codes:
            return True
        found = self.cache.get(key)
        if found is None:
            return False
        group = found.decode("ascii", "replace")
        if group not in self._programs:
            program = self._stored(group)
            if program is None:
                return False
            self._programs[group] = program
            self.hits += 1
        try:
            self._adopt(key, name, self._programs[group])
        except DeviceError as error:
            log.warning("a kernel on disk is not what it should be: %s", error)
            return False
        return True

    def _stored(self, group: str) -> Any:
        """Return the program of an entry: its binary, or its source if that is refused."""
        data = self.cache.get(group) if re.fullmatch("[0-9a-f]{64}", group) else None
        if data is None:
            return None
        try:
            source, binary = _decode(data)
        except (ValueError, struct.error, zlib.error) as error:
            log.warning("dropping the unreadable kernels %s: %s", group[:12], error)
            return None
        if binary:
            try:
                return self._program(binary)
            except self._cl.Error as error:
                log.warning(
                    "%s refused kernels from the disk (%s); building them from source",
                    self._memory.title,
                    str(error).splitlines()[0],
                )
        try:
            return self._program(source)
        except self._cl.Error as error:
            log.warning("dropping the kernels %s: %s", group[:12], error)
            return None

    # -- new ones -------------------------------------------------------------------------------

    def _build(self, texts: Mapping[str, str], keys: Mapping[str, str]) -> None:
        groups = _shared_out(texts)
        for names, program, source in _in_threads([self._job(each) for each in groups]):
            self.built += 1
            for name in names:
                self._adopt(keys[name], name, program)
                self._check_sub_groups(name, texts[name], self._codes[keys[name], name])
            group = self._keep(names, keys, program, source)
            self._programs[group] = program

    def _check_sub_groups(self, name: str, text: str, code: Code) -> None:
        """Refuse a kernel whose values would not reach those they are exchanged with.

        A compiler that chooses the size of sub-groups for each kernel may have chosen another one
        than for the trial that found exchanges right; the numbers would be wrong without a word.
        """
        masks = [int(mask) for mask in _EXCHANGE.findall(text)]
        if not masks:
            return
        needed = 1 << max(masks).bit_length()
        calls, device = self._memory.calls, self._memory.entry.device.int_ptr
        with self._memory.guard(f"loading the kernel {name}"):
            kernel = calls.kernel(code.program.int_ptr, name)
            size = calls.sub_group(kernel.address, device, code.group)
        if 0 < size < needed:
            del self._codes[self.key(text), name]
            raise DeviceError(
                f"{self._memory.title} cannot run the kernel {name}: it was compiled for "
                f"sub-groups of {size} work-items and needs {needed}; use --device cpu, and report "
                f"the driver's version ({self._memory.entry.driver})"
            )

    def _job(self, texts: Mapping[str, str]) -> Callable[[], tuple[list[str], Any, str]]:
        def build() -> tuple[list[str], Any, str]:
            source = _joined(texts)
            try:
                return list(texts), self._program(source), source
            except self._cl.Error as error:
                raise self._refused(texts, error) from error

        return build

    def _refused(self, texts: Mapping[str, str], error: Exception) -> DeviceError:
        """Return the error that names the kernel; each is built alone to find it."""
        if len(texts) > 1:
            for name, text in texts.items():
                try:
                    self._program(text)
                except self._cl.Error as alone:
                    return self._refused({name: text}, alone)
        names = ", ".join(texts)
        said = "\n".join([*getattr(error, "__notes__", []), str(error)])
        lines = [line for line in said.splitlines() if line.strip()]
        shown = "\n".join(lines[:_LOG_LINES])
        return DeviceError(
            f"{self._memory.title} cannot compile the kernel {names}; DEBUG=4 shows its source. "
            f"Its compiler says:\n{shown}"
        )

    def _program(self, what: str | bytes) -> Any:
        """Return a program built from source or from its binary; raises pyopencl's errors."""
        device, context = self._memory.entry.device, self._memory.context
        # Below pyopencl's own `Program.build`, which keeps a cache and turns remarks into warnings.
        plain = self._cl._cl._Program
        if isinstance(what, bytes):
            program = plain(context, [device], [what])
        else:
            program = plain(context, what)
        try:
            program._build(self._options, [device])
        except self._cl.Error as error:
            error.add_note(self._messages(program))
            raise
        return program

    def _messages(self, program: Any) -> str:
        """Return what the compiler said."""
        try:
            said = program.get_build_info(
                self._memory.entry.device, self._cl.program_build_info.LOG
            )
        except (self._cl.Error, UnicodeDecodeError):  # some compilers speak the system's language
            return ""
        return str(said).replace("\0", "")

    def _adopt(self, key: str, name: str, program: Any) -> None:
        calls, entry = self._memory.calls, self._memory.entry
        device = entry.device.int_ptr
        with self._memory.guard(f"loading the kernel {name}"):
            kernel = calls.kernel(program.int_ptr, name)
            x, y, z = calls.group(kernel.address, device)
            most, local = calls.needs(kernel.address, device)
        if not x:
            raise DeviceError(f"the kernel {name} does not say how large its work-groups are")
        # Compilers promise to keep to what a source requires; one that did not would refuse each
        # launch by a number, or run out of registers in the middle.
        if 0 < most < x * y * z or local > entry.local_memory:
            raise DeviceError(
                f"{self._memory.title} cannot run the kernel {name}: its groups have {x * y * z} "
                f"work-items and {local} bytes of local memory, and at most {most} and "
                f"{entry.local_memory} fit; use --device cpu, and report the driver's version "
                f"({entry.driver})"
            )
        self._codes[key, name] = Code(name, program, (x, y, z))

    def _keep(
        self, names: Sequence[str], keys: Mapping[str, str], program: Any, source: str
    ) -> str:
        """Put a group on disk; return the name of its entry."""
        binary = b""
        if self._binaries:
            try:
                binary = bytes(program.get_info(self._cl.program_info.BINARIES)[0])
            except self._cl.Error as error:
                log.info("%s gives no binaries: %s", self._memory.title, error)
        group = self.key(f"group\0{source}")
        self.cache.put(group, _encode(source, binary))
        for name in names:
            self.cache.put(keys[name], group.encode())
        return group


def _shared_out(texts: Mapping[str, str]) -> list[dict[str, str]]:
    """Cut kernels into groups of about equal length, at least one for each thread."""
    count = max(-(-len(texts) // _GROUP), min(cpu_count(), len(texts)))
    groups: list[dict[str, str]] = [{} for _ in range(count)]
    lengths = [0] * count
    for name, text in sorted(texts.items(), key=lambda item: (-len(item[1]), item[0])):
        at = lengths.index(min(lengths))
        groups[at][name] = text
        lengths[at] += len(text)
    return [each for each in groups if each]


def _joined(texts: Mapping[str, str]) -> str:
    """Return one source; each kernel keeps its own helper functions, under names of its own."""
    if len(texts) == 1:
        return next(iter(texts.values()))
    return "\n".join(_HELPER.sub(rf"\g<0>_{i}", text) for i, text in enumerate(texts.values()))


def _in_threads(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run jobs on all cores; return their results in order, or raise the first failure's error."""
    results: list[Any] = [None] * len(jobs)
    failures: list[BaseException] = []
    waiting = list(range(len(jobs)))[::-1]

    def work() -> None:
        while not failures:
            try:
                at = waiting.pop()
            except IndexError:
                return
            try:
                results[at] = jobs[at]()
            except BaseException as error:
                failures.append(error)

    helpers = [threading.Thread(target=work) for _ in range(min(cpu_count(), len(jobs)) - 1)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    if failures:
        raise failures[0]
    return results


def _encode(source: str, binary: bytes) -> bytes:
    packed = zlib.compress(source.encode())
    return struct.pack("<I", len(packed)) + packed + binary


def _decode(data: bytes) -> tuple[str, bytes]:
    (length,) = struct.unpack_from("<I", data)
    return zlib.decompress(data[4 : 4 + length]).decode(), data[4 + length :]
