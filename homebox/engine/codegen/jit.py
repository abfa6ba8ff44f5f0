"""Turn LLVM IR text into addresses of machine code, and remember the result on disk.

One idea: kernels arrive explicitly vectorised, so only registers are formed (SROA) and code is
generated at level 1; more passes cost time and gain nothing. Many new kernels are compiled on all
cores at once. Invariants: no pass and no flag used here changes a floating-point result (nothing is
contracted, reassociated or assumed finite), so a kernel's bits are those that its IR says; and a
module's object is the same however many were compiled beside it.
"""

import atexit
import ctypes
import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from homebox.engine.codegen.cache import DiskCache, cache_root
from homebox.engine.codegen.cpu import CpuTarget, cpu_count, detect, import_llvm
from homebox.engine.codegen.softhalf import SOFT_HALF, SOFT_HALF_IR
from homebox.errors import EngineError

_FORMAT = 2  # of the cache entries, and of the passes run here
_CODEGEN_LEVEL = 1
_FEW = 4  # new kernels that are compiled one after the other

# One lock for all: LLVM is entered by one thread at a time, and a fork never copies it half-way.
_lock = threading.RLock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


class Jit:
    """A compiler for one target. `compiled` and `hits` count modules made and found on disk."""

    def __init__(self, target: CpuTarget | None = None, cache: DiskCache | None = None) -> None:
        self._llvm: Any = import_llvm()
        self.target = target or detect()
        self.cache = cache or DiskCache(cache_root() / "kernels")
        self.compiled = 0
        self.hits = 0
        self._addresses: dict[tuple[str, str], int] = {}
        self._libraries = 0
        with _lock:
            self._machine = self._make_machine()
            self._linker = self._make_linker()
        import llvmlite

        self.identity = "\0".join(
            (
                str(_FORMAT),
                llvmlite.__version__,
                ".".join(map(str, self._llvm.llvm_version_info)),
                self.target.triple,
                self.target.name,
                self.target.features,
            )
        )

    def load(self, modules: Mapping[str, str]) -> dict[str, int]:
        """Return the address of each function; a module must define the function of its name.

        Other functions in a module must be `internal`. Safe to call from several threads. Raises
        EngineError if a text is not valid IR or lacks its function.
        """
        found = self._ensure([(text, (name,)) for name, text in modules.items()])
        return {name: address for part in found for name, address in part.items()}

    def load_module(self, text: str, names: Sequence[str]) -> dict[str, int]:
        """Return the addresses of several functions of one module; else like `load`."""
        return self._ensure([(text, tuple(names))])[0]

    def load_objects(self, keys: Mapping[str, str]) -> dict[str, int] | None:
        """Return the address of each function from the cache: its module's `key` by its name.

        Returns None if one of them is not there (any more); nothing is compiled.
        """
        with _lock:
            missing: dict[str, tuple[tuple[str, ...], bytes]] = {}
            for name, key in keys.items():
                if (key, name) not in self._addresses:
                    found = self.cache.get(key)
                    if found is None:
                        return None
                    missing[key] = ((name,), found)
            self.hits += len(missing)
            if missing:
                self._link(missing)
            return {name: self._addresses[key, name] for name, key in keys.items()}

    def assembly(self, text: str) -> str:
        """Return the machine code of a module in readable form."""
        with _lock:
            return str(self._machine.emit_assembly(self._optimised("module", text)))

    def key(self, text: str) -> str:
        """Return the name of a module's cache entry: a hash of all that decides its code."""
        return hashlib.sha256(f"{self.identity}\0{text}".encode()).hexdigest()

    def _make_machine(self) -> Any:
        llvm = self._llvm
        if self.target.triple != llvm.get_process_triple():  # only ever printed, not run
            llvm.initialize_all_targets()
            llvm.initialize_all_asmprinters()
        return llvm.Target.from_triple(self.target.triple).create_target_machine(
            cpu=self.target.name,
            features=self.target.features,
            opt=_CODEGEN_LEVEL,
            jit=True,
            # Constants are reached relative to the code, as operands; the default for a JIT builds
            # a 64-bit address for each in a register.
            codemodel="small",
            reloc="pic",
        )

    def _make_linker(self) -> Any:
        """Return a linker that reports errors; the older MCJIT ends the process instead."""
        if self.target.triple != self._llvm.get_process_triple():
            return None
        linker = self._llvm.create_lljit_compiler(self._make_machine(), use_jit_link=True)
        # Never unmapped, not even at exit: a thread may still be inside.
        atexit.register(linker.detach)
        return linker

    def _optimised(self, name: str, text: str, machine: Any = None) -> Any:
        llvm, machine = self._llvm, machine or self._machine
        try:
            # A context of its own: types and constants are freed together with the module.
            module = llvm.parse_assembly(text, llvm.create_context())
            module.triple = self.target.triple
            module.data_layout = str(machine.target_data)
            module.verify()
        except RuntimeError as error:
            raise EngineError(f"kernel {name} is not valid LLVM IR: {error}") from error
        options = llvm.create_pipeline_tuning_options(speed_level=_CODEGEN_LEVEL)
        builder = llvm.create_pass_builder(machine, options)
        passes = llvm.create_new_module_pass_manager()
        passes.add_sroa_pass()
        passes.run(module, builder)
        return module

    def _ensure(self, wanted: list[tuple[str, tuple[str, ...]]]) -> list[dict[str, int]]:
        with _lock:
            keys = [self.key(text) for text, _ in wanted]
            missing = {
                key: (names, text)
                for key, (text, names) in zip(keys, wanted)
                if any((key, name) not in self._addresses for name in names)
            }
            if missing:
                objects = self._objects({k: (n[0], text) for k, (n, text) in missing.items()})
                self._link({key: (names, objects[key]) for key, (names, _) in missing.items()})
            return [
                {name: self._addresses[key, name] for name in names}
                for key, (_, names) in zip(keys, wanted)
            ]

    def _objects(self, wanted: dict[str, tuple[str, str]]) -> dict[str, bytes]:
        """Return the object of each module (name, text) by its key: from disk or compiled."""
        objects: dict[str, bytes] = {}
        for key in wanted:
            found = self.cache.get(key)
            if found is not None:
                objects[key] = found
        self.hits += len(objects)
        new = {key: each for key, each in wanted.items() if key not in objects}
        self.compiled += len(new)
        for key, made in self._compile(new).items():
            self.cache.put(key, made)
            objects[key] = made
        return objects

    def _compile(self, wanted: dict[str, tuple[str, str]]) -> dict[str, bytes]:
        """Return the new object of each module; many are shared out to several threads."""
        waiting = sorted(wanted.items(), key=lambda item: len(item[1][1]))  # the longest last
        made: dict[str, bytes] = {}
        failures: list[BaseException] = []

        def work(machine: Any) -> None:
            while not failures:
                try:
                    key, (name, text) = waiting.pop()
                except IndexError:
                    return
                try:
                    made[key] = _emit(machine, self._optimised(name, text, machine))
                except BaseException as error:
                    failures.append(error)

        helpers: list[threading.Thread] = []
        if len(wanted) > _FEW:
            for _ in range(min(cpu_count(), len(wanted)) - 1):
                # A machine of its own: LLVM keeps state in it while it emits.
                helper = threading.Thread(target=work, args=(self._make_machine(),))
                helper.start()
                helpers.append(helper)
        work(self._machine)
        for helper in helpers:
            helper.join()
        if failures:
            raise failures[0]
        return made

    def _link(self, objects: dict[str, tuple[tuple[str, ...], bytes]]) -> None:
        if self._linker is None:
            raise EngineError(f"code for {self.target.triple} cannot be run on this machine")
        builder = self._llvm.JITLibraryBuilder().add_current_process()
        for name, address in self._support(objects).items():
            builder.import_symbol(name, address)
        for names, data in objects.values():
            builder.add_object_img(data)
            for name in names:
                builder.export_symbol(name)
        self._libraries += 1
        try:
            library = builder.link(self._linker, f"kernels{self._libraries}")
        except RuntimeError as error:
            wanted = ", ".join(name for names, _ in objects.values() for name in names)
            raise EngineError(
                f"cannot link the kernels {wanted}: {error}; a function is not defined where it "
                "should be, or calls one that does not exist"
            ) from error
        for key, (names, _) in objects.items():
            for name in names:
                self._addresses[key, name] = int(library[name])
        library.detach()  # never unloaded: nobody can know who still has an address

    def _support(self, objects: dict[str, tuple[tuple[str, ...], bytes]]) -> dict[str, int]:
        """Return the functions that LLVM calls on its own and no library of the process has."""
        called = any(name.encode() in data for _, data in objects.values() for name in SOFT_HALF)
        if not called or self.target.arch != "x86_64" or self.key(SOFT_HALF_IR) in objects:
            return {}
        return self.load_module(SOFT_HALF_IR, SOFT_HALF)


def _emit(machine: Any, module: Any) -> bytes:
    """Return the object code of a module.

    llvmlite lets one thread at a time into LLVM. Emitting is nearly all of the time, and touches
    only its own module, context and machine; so that one call goes in without llvmlite's lock. If
    it is built otherwise than expected, threads take turns instead.
    """
    from llvmlite.binding import ffi

    entry = getattr(ffi.lib.LLVMPY_TargetMachineEmitToMemory, "_cfn", None)
    if entry is None:
        return bytes(machine.emit_object(module))
    with ffi.OutputString() as problem:
        memory = entry(machine, module, 1, problem)
        if not memory:
            raise EngineError(f"LLVM cannot generate code: {problem}")
    start = ffi.lib.LLVMPY_GetBufferStart(memory)
    size = ffi.lib.LLVMPY_GetBufferSize(memory)
    try:
        return ctypes.string_at(start, size)
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(memory)


_shared: Jit | None = None


def shared_jit() -> Jit:
    """Return the process's compiler."""
    global _shared
    with _lock:
        if _shared is None:
            _shared = Jit()
        return _shared
