"""Prefixes that outlive the process: the beginnings that stay the same, system and tools, on disk.

The one idea: a beginning that was asked for twice will be asked for again, also after a restart; so
its pages are copied out between the steps of answers, a few at a time, written by a thread, and a
later prompt that begins with the same ids gets them from the file instead of computing them.
Once is not enough: agents that put the time into their system prompt would fill the disk with what
nobody asks for again. A file is used as far as its ids agree: today's date ends what is in common
with yesterday's file, and what comes before it is still read.

Invariant: what a slot gets from a file is what was computed for the same ids under the same facts:
weights, adapter, arithmetic, sources and owner. Without a disk, or with one that fails, all goes on
as if nothing were kept.
"""

import hashlib
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from homebox.engine.codegen.cache import cache_root
from homebox.engine.runtime.capture import sources_digest
from homebox.errors import DamagedPrefixError
from homebox.model.decoder.pages import PAGE
from homebox.model.generation.request import GenerationRequest
from homebox.model.prefixes.misses import Space
from homebox.model.prefixes.prefix_file import Bytes, Facts, PrefixReader
from homebox.model.prefixes.prefix_folder import FOLDER, SUFFIX, PrefixFolder
from homebox.model.prefixes.sharing import Prefixes
from homebox.model.prefixes.tree import PrefixTree
from homebox.model.prefixes.writing import Writing

log = logging.getLogger("homebox.prefixes")

LEAST = 256  # positions; shorter beginnings are read faster than a file is found
SIGHTS = 2  # how often a beginning is asked for before it is written
READ_STEP = 16 << 20  # bytes that one step of an answer reads
WRITE_STEP = 4 << 20  # bytes that are copied out between two steps of answers
IDLE_STEP = 64 << 20  # the same while there are no answers
PAUSE = 600.0  # seconds without writing after a disk has failed
_REMEMBERED = 1024  # beginnings that were seen

Int32 = npt.NDArray[np.int32]


class PageMemory(Protocol):
    """The part of a transformer that holds pages."""

    @property
    def page_bytes(self) -> int:
        """The bytes of a page in all layers."""
        ...

    def read_page(self, page: int) -> Bytes:
        """Return a copy of what a page holds."""
        ...

    def put_page(self, slot: int, position: int, content: Bytes) -> None:
        """Let a slot hold that at `position`, and nothing after it."""
        ...


@dataclass(frozen=True)
class Kept:
    """A file and the ids that it is of."""

    path: Path
    ids: Int32


class DiskPrefixes:
    """The kept prefixes of a model; belongs to the engine thread.

    `facts` say what decides the bytes of pages; those of owner and adapter are added to them.
    """

    def __init__(
        self, memory: PageMemory, tree: PrefixTree, folder: PrefixFolder, facts: Facts
    ) -> None:
        self._memory, self._tree, self._folder = memory, tree, folder
        self._facts = dict(facts)
        self._asked: dict[int, tuple[Space, Int32]] = {}  # by slot, until it holds them
        self._running: dict[int, str] = {}  # names, by slot
        self._seen: OrderedDict[str, int] = OrderedDict()
        self._known: dict[str, list[Kept]] = {}  # by the beginning of the files' names
        self._version = 0
        self._writing: tuple[Writing, Space, Int32, int] | None = None  # and pages copied out
        self._resting = 0.0  # nothing is written before
        self.restored = 0  # positions that came from files
        self.written = 0  # files

    # -- reading --------------------------------------------------------------------------------

    def begin(
        self, slot: int, space: Space | None, request: GenerationRequest, there: int
    ) -> Iterator[int] | None:
        """Return what brings a prompt's beginning into a slot, if a file has more than is `there`.

        Each step of it takes a few pages in and yields how many positions the slot holds then. The
        prompt's stable ids count as asked for when the slot holds them (`taken`).
        """
        if space is None or not self._folder.usable():
            return None
        ids = np.array(request.prompt_ids, np.int32)
        stable = min(request.stable, len(ids)) // PAGE * PAGE
        if stable >= LEAST:
            self._asked[slot] = (space, ids[:stable])
        return self.restore(space, slot, ids, there)

    def restore(self, space: Space, slot: int, ids: Int32, there: int) -> Iterator[int] | None:
        """Return what `begin` does, for any ids."""
        kept, count = self._nearest(space, ids)
        if kept is None or count * PAGE <= there:
            return None
        return self._reading(kept, space, slot, there // PAGE, count)

    def _reading(
        self, kept: Kept, space: Space, slot: int, start: int, count: int
    ) -> Iterator[int]:
        begun = time.perf_counter()
        size = self._memory.page_bytes
        done = start
        try:
            with PrefixReader(kept.path, self._facts_of(space), size) as reader:
                reader.ahead()
                if not np.array_equal(reader.ids, kept.ids):
                    raise DamagedPrefixError(f"{kept.path} is another file now")
                told = start
                for index in range(start, count):
                    self._memory.put_page(slot, index * PAGE, reader.page(index))
                    done = index + 1
                    self.restored += PAGE
                    if (done - told) * size >= READ_STEP:
                        told = done
                        yield done * PAGE
            self._folder.used(kept.path)
        except (OSError, DamagedPrefixError) as error:
            self._drop(kept.path, error)
        log.info(
            "%s tokens came from %s in %.2f s",
            f"{(done - start) * PAGE:,}",
            kept.path.name,
            time.perf_counter() - begun,
        )
        if done > start:
            yield done * PAGE

    def _nearest(self, space: Space, ids: Int32) -> tuple[Kept | None, int]:
        """Return the file with the longest beginning of `ids`, all but the last, and its pages."""
        best, most = None, 0
        for kept in self._of(space):
            count = _common(kept.ids, ids[:-1]) // PAGE
            if count > most:
                best, most = kept, count
        return best, most

    def _of(self, space: Space) -> list[Kept]:
        """Return the files of a space; the folder is looked at again when it changed."""
        version = self._folder.version()
        if version != self._version:
            self._known.clear()
            self._version = version
        name = self._name(space)
        if name not in self._known:
            found = [self._opened(path, space) for path in self._folder.named(name)]
            self._known[name] = [kept for kept in found if kept is not None]
        return self._known[name]

    def _opened(self, path: Path, space: Space) -> Kept | None:
        """Return what a file says it holds; one that is damaged or foreign is removed."""
        try:
            with PrefixReader(path, self._facts_of(space), self._memory.page_bytes) as reader:
                return Kept(path, reader.ids)
        except FileNotFoundError:
            return None
        except (OSError, DamagedPrefixError) as error:
            self._drop(path, error)
            return None

    def _drop(self, path: Path, error: Exception) -> None:
        log.warning("a kept prefix is not used and computed anew: %s", error)
        if isinstance(error, DamagedPrefixError):
            self._folder.remove(path)
            self._seen[path.name] = SIGHTS  # it was worth it, and is written again at once
        for files in self._known.values():
            files[:] = [kept for kept in files if kept.path != path]

    # -- writing --------------------------------------------------------------------------------

    def taken(self, slot: int, length: int) -> None:
        """Hear how many positions of its prompt a slot holds, whose pages the tree has."""
        if slot in self._asked and length >= len(self._asked[slot][1]):
            self._ask(slot, *self._asked.pop(slot))

    def end(self, slot: int) -> None:
        """Hear that a slot is given back."""
        self._asked.pop(slot, None)
        self._running.pop(slot, None)

    def _ask(self, slot: int, space: Space, ids: Int32) -> None:
        """Count a beginning as asked for; begin to write it if that is worth it."""
        name = self._file_name(space, ids)
        alone = name not in self._running.values()  # several answers to one request count once
        self._running[slot] = name
        sights = self._seen[name] = self._seen.pop(name, 0) + alone
        while len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        if sights < SIGHTS or self._writing is not None or time.monotonic() < self._resting:
            return
        if any(_common(kept.ids, ids) == len(ids) for kept in self._of(space)):
            return
        try:
            writing = Writing(
                self._folder, name, self._facts_of(space), ids, self._memory.page_bytes
            )
        except OSError as error:
            self._rest(error)
            return
        self._writing = (writing, space, ids, 0)

    def advance(self) -> bool:
        """Copy out a few pages more; False if nothing is being written.

        A prefix whose pages are not kept any more is not written.
        """
        return self._advance(WRITE_STEP)

    def idle(self) -> bool:
        """Do the same while there are no answers."""
        return self._advance(IDLE_STEP)

    def _advance(self, nbytes: int) -> bool:
        if self._writing is None:
            return False
        writing, space, ids, done = self._writing
        count = len(ids) // PAGE
        pages = self._tree.path(space, ids) if done < count else ()
        if writing.failed is None and done < count and len(pages) < count:
            writing.abandon()
            self._writing = None
            return False
        room = nbytes
        while done < count and room > 0 and writing.wants():
            content = self._memory.read_page(pages[done])
            writing.put(content)
            room -= content.nbytes
            done += 1
        self._writing = (writing, space, ids, done)
        if writing.finished:
            self._writing = None
            self._end(writing, space, ids)
        return True

    def forget(self) -> None:
        """Remove all that is kept, of every model: prompts hold words that are to be forgotten.

        Of prompts that are being read now nothing will be kept.
        """
        self.close()
        self._asked.clear()
        self._running.clear()
        for path in self._folder.named(""):
            self._folder.remove(path)
        self._known.clear()
        self._seen.clear()

    def close(self) -> None:
        """Give up what is being written."""
        if self._writing is not None:
            self._writing[0].abandon()
            self._writing = None

    def _end(self, writing: Writing, space: Space, ids: Int32) -> None:
        """Note what became of a file; those that hold less of the same go."""
        if writing.failed is not None:
            self._rest(writing.failed)
        if writing.path is None:
            return
        self.written += 1
        self._known.clear()
        log.info("%s tokens are kept in %s", f"{len(ids):,}", writing.name)
        for kept in self._of(space):
            if len(kept.ids) < len(ids) and _common(kept.ids, ids) == len(kept.ids):
                self._folder.remove(kept.path)

    def _rest(self, error: OSError) -> None:
        self._resting = time.monotonic() + PAUSE
        log.warning("a prefix could not be kept in %s: %s", self._folder.path, error)

    # -- names ----------------------------------------------------------------------------------

    def _facts_of(self, space: Space) -> dict[str, str]:
        """Return what the files of a space must say; an owner is told by a hash of its digest."""
        owner = hashlib.sha256(f"homebox prefixes of {space.owner}".encode()).hexdigest()
        return {**self._facts, "adapter": space.adapter, "owner": owner}

    def _name(self, space: Space) -> str:
        text = repr(sorted(self._facts_of(space).items()))
        return hashlib.sha256(text.encode()).hexdigest()[:32] + "-"

    def _file_name(self, space: Space, ids: Int32) -> str:
        return f"{self._name(space)}{hashlib.sha256(ids.tobytes()).hexdigest()[:16]}{SUFFIX}"


def _common(a: Int32, b: Int32) -> int:
    """Return how many ids two prompts have in common at their beginning."""
    count = min(len(a), len(b))
    differ = np.flatnonzero(a[:count] != b[:count])
    return int(differ[0]) if len(differ) else count


class Served(Protocol):
    """The part of a model whose prefixes are kept."""

    base_hash: str
    transformer: Any
    prefixes: Prefixes


def disk_prefixes(model: Served, budget: int) -> DiskPrefixes | None:
    """Return what keeps a model's prefixes in the cache folder, if it has pages to keep."""
    tree = model.prefixes.tree
    if tree is None:
        return None
    sources = [sources_digest(Path(__file__).parents[2] / room) for room in ("engine", "model")]
    if None in sources:
        log.info("prefixes are not kept on disk: sources changed since the start")
        return None
    how = (model.transformer.numerics(), *sources, os.environ.get("NOFUSE", ""))
    arithmetic = hashlib.sha256(repr(how).encode()).hexdigest()
    facts = {"base": model.base_hash, "arithmetic": arithmetic}
    folder = PrefixFolder(cache_root() / FOLDER, budget)
    return DiskPrefixes(model.transformer, tree, folder, facts)
