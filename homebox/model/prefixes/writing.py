"""One prefix on its way to the disk: pages in, a file out, by a thread that nobody waits for.

The one idea: the engine thread hands over copies of pages as long as few are on their way, and all
that a disk can be slow at happens in a thread of the lowest priority, which knows nothing of the
model. Invariant: what failed or was given up leaves no file behind, and its error is told, not
raised.
"""

import os
import queue
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from homebox.model.decoder.pages import PAGE
from homebox.model.prefixes.prefix_file import Bytes, Facts, PrefixWriter, file_bytes
from homebox.model.prefixes.prefix_folder import NewFile, PrefixFolder

AHEAD = 32 << 20  # bytes that may be on their way
SYNC = 32 << 20  # bytes after which the disk is waited for, so that others wait for it little
SILENCE = 60.0  # seconds without pages after which the thread gives up
LOWEST = 19  # priority of the thread, where threads have one


class Writing:
    """A file in the making; raises OSError if it cannot be begun."""

    def __init__(
        self,
        folder: PrefixFolder,
        name: str,
        facts: Facts,
        ids: npt.NDArray[np.int32],
        page_bytes: int,
    ) -> None:
        self.name = name
        self.failed: OSError | None = None
        self.path: Path | None = None  # of the file, once it is there
        self._ahead = max(AHEAD // page_bytes, 1)
        self._pages: queue.SimpleQueue[Bytes | None] = queue.SimpleQueue()
        self._count = len(ids) // PAGE
        self._ending = threading.Lock()
        self._wanted = True
        file = folder.create(name, file_bytes(facts, ids, page_bytes))
        writer = PrefixWriter(file.handle, facts, ids, page_bytes)
        self._thread = threading.Thread(
            target=self._run, args=(file, writer), name="homebox-prefix", daemon=True
        )
        self._thread.start()

    @property
    def finished(self) -> bool:
        """Whether the thread has ended: `path` is there, or `failed` says why not, or neither."""
        return not self._thread.is_alive()

    def wants(self) -> bool:
        """Whether another page may be handed over now."""
        return self._pages.qsize() < self._ahead and not self.finished

    def put(self, content: Bytes) -> None:
        """Hand over the next page; it must not be changed any more."""
        self._pages.put(content)

    def abandon(self) -> None:
        """Let go of the file; the thread removes it, and no file comes from now on."""
        with self._ending:
            self._wanted = False
        self._pages.put(None)

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def _run(self, file: NewFile, writer: PrefixWriter) -> None:
        with suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)
        try:
            unsynced = 0
            for _ in range(self._count):
                content = self._pages.get(timeout=SILENCE)
                if content is None:
                    return
                writer.page(content)
                unsynced += content.nbytes
                if unsynced >= SYNC:
                    os.fsync(file.handle)
                    unsynced = 0
            writer.finish()
            with self._ending:
                if self._wanted:
                    self.path = file.commit()
        except queue.Empty:
            return
        except OSError as error:
            self.failed = error
        finally:
            file.abandon()
