"""A model's weights as the kernels read them: packed once, kept in a file, mapped at every start.

The file is a header of whole pages and the segments of `packed_layout`. Opening it reads one page:
the header must have its own hash, name the same model, format and layout, and its seal, a time in
the past, must be the file's modification time, which any later write moves; size and owner must be
right too. The numbers are not read. That is safe for two reasons: the header is written last, after
the numbers reached the disk, so a file that was cut short has none; and the folder is ours alone:
whoever could forge a file there could replace the compiled kernels beside it. What a failing disk
does to the numbers is found by `PackedWeights.verify`, which reads them all.
Invariant: what was packed was complete and finite, and depends on its source and format only.
"""

import hashlib
import json
import logging
import mmap
import os
import stat
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from homebox.engine import dtype as dt
from homebox.engine.cache import cache_root, usable_folder
from homebox.engine.device import Buffer
from homebox.engine.formats import Bytes, Format
from homebox.engine.ops import Op, node
from homebox.engine.pack_weights import LARGEST, packed
from homebox.engine.tensor import Tensor
from homebox.errors import ModelFormatError
from homebox.model.config import ModelConfig
from homebox.model.loader import LoadedWeights, load_weights
from homebox.model.packed_layout import PAGE, Segment, parts_of, segments_of
from homebox.model.safetensors_reader import Stored, finite, widened

log = logging.getLogger(__name__)

VERSION = 1  # of the layout, the formats and the rounding; another one packs everything again
_MAGIC = b"homebox packed weights\n\0"
_FIXED = len(_MAGIC) + 8 + 32  # then the length of the header's JSON, and its sha256
_LIMIT = 64 << 30  # bytes of the folder, after which the models unused for longest go
_AHEAD = 4  # segments that the disk reads while one is packed
_ABANDONED = 86_400  # seconds after which an unfinished file is nobody's

Sink = Callable[[int, Bytes], None]


class PackedWeights:
    """The weights of one model in one format.

    `memory` holds them all; `buffers` names the parts "weights:<name>", the same in every run, and
    `tensors` has them by name.
    `path` is the mapped file, None if there is no usable cache.
    """

    def __init__(
        self,
        config: ModelConfig,
        form: Format,
        base_hash: str,
        memory: Buffer,
        path: Path | None = None,
        digest: str = "",
    ) -> None:
        self.config = config
        self.form = form
        self.base_hash = base_hash
        self.memory = memory
        self.path = path
        self._digest = digest
        segments, self.nbytes = segments_of(config, form)
        self.segments = {segment.name: segment for segment in segments}
        self.buffers: dict[str, Buffer] = {}
        self.tensors: dict[str, Tensor] = {}
        for segment in (*segments, *parts_of(config, segments)):
            self._add(segment)
        if config.tied:
            self.tensors["head"] = self.tensors["embed"]

    def _add(self, segment: Segment) -> None:
        """Give a segment, or whole panels of one, a buffer and a tensor of its name."""
        array: Bytes = self.memory.array[segment.offset : segment.offset + segment.nbytes]
        if segment.form is None:
            buffer = Buffer.over(array.view(np.float32), dt.f32, frozen=True)
        else:
            buffer = Buffer.over(array, dt.u8, frozen=True)
        flat = Tensor(node(Op.BUFFER, buffer.dtype, (buffer.count,), (), buffer))
        self.buffers[f"weights:{segment.name}"] = buffer
        self.tensors[segment.name] = (
            flat
            if segment.form is None
            else Tensor.packed(segment.form, segment.n, segment.k, flat)
        )

    def tensor(self, name: str) -> Tensor:
        """Return a weight as a frozen float32 tensor: (n, k), or (n,) for a norm.

        Names: embed, norm, head, and layers.{i}. with qkv, o, gate, up, down, attn_norm, mlp_norm;
        where heads are normalised, q_norm, k_norm; where they are whole panels of qkv, q, k, v. Any
        other raises KeyError.
        """
        return self.tensors[name]

    def bytes_of(self, name: str) -> Bytes:
        """Return the bytes of a segment as they are stored."""
        segment = self.segments[name]
        array: Bytes = self.memory.array[segment.offset : segment.offset + segment.nbytes]
        return array

    def verify(self) -> None:
        """Read all of a mapped file; raise ModelFormatError if it is not what was written."""
        hasher = hashlib.sha256()
        for name in self.segments:
            hasher.update(self.bytes_of(name).data)
        if self.path is None or hasher.hexdigest() == self._digest:
            return
        raise ModelFormatError(
            f"{self.path}: the packed weights are damaged; remove the file, and it is made again"
        )


def pack_model(source: Path | LoadedWeights, form: Format) -> PackedWeights:
    """Return the weights of a model directory in a format, from the cache where they are there.

    Raises ModelNotFoundError, and ModelFormatError for what cannot be read or packed.
    """
    weights = source if isinstance(source, LoadedWeights) else load_weights(source)
    found = find_packed(weights, form)
    if found is not None:
        return found
    path = _path(weights, form)
    if not usable_folder(path.parent):
        return _in_memory(weights, form)
    try:
        _write(path, weights, form)
    except OSError as error:
        log.warning("cannot keep packed weights in %s: %s", path.parent, error)
        return _in_memory(weights, form)
    _prune(path.parent, path)
    return _open(path, weights, form) or _in_memory(weights, form)


def find_packed(weights: LoadedWeights, form: Format) -> PackedWeights | None:
    """Return the weights of a model in a format if the cache has them."""
    path = _path(weights, form)
    return _open(path, weights, form) if path.exists() and usable_folder(path.parent) else None


def _path(weights: LoadedWeights, form: Format) -> Path:
    key = hashlib.sha256(f"{VERSION}\0{weights.base_hash}\0{form}".encode()).hexdigest()
    return cache_root() / "weights" / key


def _in_memory(weights: LoadedWeights, form: Format) -> PackedWeights:
    _, size = segments_of(weights.config, form)
    memory = Buffer(size, dt.u8)

    def put(offset: int, part: Bytes) -> None:
        memory.array[offset : offset + part.size] = part

    _pack(weights, form, put)
    memory.frozen = True
    return PackedWeights(weights.config, form, weights.base_hash, memory)


# -- packing --------------------------------------------------------------------------------------


def _pack(weights: LoadedWeights, form: Format, put: Sink) -> None:
    """Hand out the bytes of all segments in order, with their offsets."""
    weights.check_tied_head()
    segments, _ = segments_of(weights.config, form)
    for i, segment in enumerate(segments):
        for following in segments[i + 1 : i + 1 + _AHEAD]:
            for name in following.parts:
                weights.prefetch(name)
        if segment.form is None:
            put(segment.offset, weights[segment.name].view(np.uint8))
            continue
        at = segment.offset
        for part, largest in packed(form, _stacked(weights, segment)):
            if not largest <= LARGEST[form]:
                raise _refused(weights, segment, form)
            put(at, part)
            at += part.size
            for name in segment.parts:
                weights.release(name)


def _stacked(weights: LoadedWeights, segment: Segment) -> Stored:
    """Return the matrix of a segment as it is stored, (n, k); its numbers are not checked."""
    arrays = [weights.stored(name, checked=False) for name in segment.parts]
    if len(arrays) == 1:
        return arrays[0]
    if len({array.dtype for array in arrays}) > 1:
        arrays = [widened(array) for array in arrays]
    return np.concatenate(arrays)


def _refused(weights: LoadedWeights, segment: Segment, form: Format) -> ModelFormatError:
    for name in segment.parts:
        if not finite(weights.stored(name, checked=False)):
            return weights.refuse(name, "holds NaN or infinity")
    largest = [float(np.abs(weights[name]).max()) for name in segment.parts]
    worst = segment.parts[largest.index(max(largest))]
    return weights.refuse(worst, f"holds {max(largest):g}, which is too large for {form}; use f32")


# -- the file -------------------------------------------------------------------------------------


def _facts(weights: LoadedWeights, form: Format) -> dict[str, Any]:
    """Return what the header says of the content, all of it known before the file is read."""
    segments, size = segments_of(weights.config, form)
    return {
        "version": VERSION,
        "base": weights.base_hash,
        "format": form.name,
        "start": _start(len(segments)),
        "size": size,
        "segments": {s.name: [str(s.form or "vector"), s.n, s.k, s.offset] for s in segments},
    }


def _start(segments: int) -> int:
    """Return where the numbers begin: behind room for a header with so many segments."""
    return -(-(_FIXED + 1024 + 96 * segments) // PAGE) * PAGE


def _write(path: Path, weights: LoadedWeights, form: Format) -> None:
    """Pack into a file beside `path` and rename it; raises OSError if that is not possible."""
    facts = _facts(weights, form)
    hasher = hashlib.sha256()
    handle, name = tempfile.mkstemp(prefix=path.name[:16], suffix=".tmp", dir=path.parent)
    try:

        def put(offset: int, part: Bytes) -> None:
            _write_at(handle, facts["start"] + offset, part.data)
            hasher.update(part.data)

        _pack(weights, form, put)
        os.ftruncate(handle, facts["start"] + facts["size"])
        os.fsync(handle)
        # Whole even seconds: any file system can keep them, and no later write falls on one.
        seal = (time.time_ns() // 2_000_000_000) * 2_000_000_000
        header = _header(facts | {"digest": hasher.hexdigest(), "seal": seal})
        _write_at(handle, 0, memoryview(header))
        os.utime(handle, ns=(seal, seal))
        os.fsync(handle)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
    finally:
        os.close(handle)
    _sync_folder(path.parent)


def _write_at(handle: int, offset: int, data: memoryview) -> None:
    while len(data):
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _header(facts: dict[str, Any]) -> bytes:
    text = json.dumps(facts, separators=(",", ":")).encode()
    return _MAGIC + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest() + text


def _open(path: Path, weights: LoadedWeights, form: Format) -> PackedWeights | None:
    """Map a file if it is whole, ours and of this model; see the module's note."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        status = os.fstat(handle)
        facts = _facts(weights, form)
        digest = _checked(handle, status, facts)
        if digest is None:
            log.warning("packing the weights again: %s is damaged or was changed", path)
            return None
        with suppress(OSError):  # the time of use decides what is removed first
            os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))
        array = _mapped(handle, facts["start"], facts["size"])
    except OSError as error:
        log.warning("cannot use %s: %s", path, error)
        return None
    finally:
        os.close(handle)
    memory = Buffer.over(array, dt.u8, frozen=True)
    return PackedWeights(weights.config, form, weights.base_hash, memory, path, digest)


def _checked(handle: int, status: os.stat_result, facts: dict[str, Any]) -> str | None:
    """Return the digest of the numbers if the file is what its header says, else None."""
    if not stat.S_ISREG(status.st_mode) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return None
    if status.st_uid != os.getuid() or status.st_size != facts["start"] + facts["size"]:
        return None
    head = os.pread(handle, facts["start"], 0)
    length = int.from_bytes(head[len(_MAGIC) : len(_MAGIC) + 8], "little")
    text = head[_FIXED : _FIXED + length]
    if not head.startswith(_MAGIC) or hashlib.sha256(text).digest() != head[_FIXED - 32 : _FIXED]:
        return None
    found: dict[str, Any] = json.loads(text)
    digest = str(found.pop("digest", ""))
    if found.pop("seal", None) != status.st_mtime_ns or found != facts:
        return None
    return digest


def _mapped(handle: int, start: int, size: int) -> Bytes:
    """Return the numbers of the file, shared with every process that maps it, read-only."""
    whole = mmap.mmap(handle, start + size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    for advice in ("MADV_WILLNEED", "MADV_HUGEPAGE"):
        with suppress(OSError, AttributeError):  # advice only: systems may lack or refuse it
            whole.madvise(getattr(mmap, advice))
    return np.frombuffer(whole, np.uint8, size, start)


def _prune(folder: Path, keep: Path) -> None:
    """Remove unfinished files that nobody works on, and the models unused for longest."""
    entries: list[tuple[int, int, Path]] = []
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                status = path.stat()
                if path.suffix == ".tmp" and time.time() - status.st_ctime > _ABANDONED:
                    path.unlink()
                elif path != keep and path.suffix != ".tmp":
                    entries.append((status.st_atime_ns, status.st_size, path))
        excess = keep.stat().st_size + sum(size for _, size, _ in entries) - _LIMIT
        for _, size, path in sorted(entries):
            if excess <= 0:
                return
            path.unlink()
            excess -= size
