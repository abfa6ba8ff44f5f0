"""A model's weights as the kernels read them: packed once, kept in a file, mapped at every start.

The content of the file is the segments of `packed_layout`; how it is kept, and when it is trusted,
says `sealed_file`. Without a usable cache the same bytes are made in memory. They lie on the host;
`placed_weights` puts parts of them on devices.
Invariant: what was packed was complete and finite, and depends on its source and format only.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from homebox.engine.codegen.cache import cache_root, usable_folder
from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import HOST, Buffer
from homebox.engine.graph.formats import Q4, Q8, Bytes, Format
from homebox.engine.graph.gguf_blocks import from_q4_0, from_q8_0
from homebox.engine.graph.ops import Op, node
from homebox.engine.graph.tensor import Tensor
from homebox.errors import EngineError, ModelFormatError
from homebox.model.config import ModelConfig
from homebox.model.files.safetensors_reader import Stored, finite, widened
from homebox.model.files.sealed_file import Sink, open_sealed, prune, write_sealed
from homebox.model.loading.loader import LoadedWeights, load_weights
from homebox.model.weights.packed_layout import Packing, Segment, packing_of, parts_of, segments_of

log = logging.getLogger(__name__)

Tell = Callable[[int, int], None]  # bytes that are packed, and of how many
VERSION = 1  # of the layout, the formats and the rounding; another one packs everything again
FROM_BLOCKS = {Q8: from_q8_0, Q4: from_q4_0}
_AHEAD = 4  # segments that the disk reads while one is packed


class PackedWeights:
    """The weights of one model in one format, or most of them.

    `memory` holds them all; `buffers` names the parts "weights:<name>", the same in every run, and
    `tensors` has them by name.
    `path` is the mapped file, None if there is no usable cache.
    """

    def __init__(
        self,
        config: ModelConfig,
        form: Format | Packing,
        base_hash: str,
        memory: Buffer,
        path: Path | None = None,
        digest: str = "",
    ) -> None:
        self.config = config
        self.packing = packing_of(form)
        self.form = self.packing.form  # of most matrices
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
        if segment.form is None:
            buffer = self.memory.part(segment.offset, segment.n, dt.f32, frozen=True)
        else:
            buffer = self.memory.part(segment.offset, segment.nbytes, frozen=True)
        self.buffers[f"weights:{segment.name}"] = buffer
        shape = self._vector_shape(segment) if segment.form is None else (buffer.count,)
        stored = Tensor(node(Op.BUFFER, buffer.dtype, shape, (), buffer))
        self.tensors[segment.name] = (
            stored
            if segment.form is None
            else Tensor.packed(segment.form, segment.n, segment.k, stored)
        )

    def _vector_shape(self, segment: Segment) -> tuple[int, ...]:
        whole = len(segment.parts) == 1
        return self.config.weight_shapes()[segment.name] if whole else (segment.n,)

    def tensor(self, name: str) -> Tensor:
        """Return a weight as a frozen float32 tensor: (n, k), or (n,) for a norm or a bias.

        Names are those of `config.weight_shapes()`, save that q, k and v are stacked as qkv and
        their biases as qkv_bias; where they are whole panels of qkv there are q, k and v too. Any
        other raises KeyError.
        """
        return self.tensors[name]

    def bytes_of(self, name: str) -> Bytes:
        """Return the bytes of a segment as they are stored."""
        segment = self.segments[name]
        stored: Bytes = self.memory.read(segment.offset, segment.nbytes)
        return stored

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


def pack_model(
    source: Path | LoadedWeights, form: Format | Packing, tell: Tell | None = None
) -> PackedWeights:
    """Return the weights of a model directory in a format, from the cache where they are there.

    `tell` hears how many bytes were packed, and of how many, where they are not. Raises
    ModelNotFoundError, and ModelFormatError for what cannot be read or packed.
    """
    weights = source if isinstance(source, LoadedWeights) else load_weights(source)
    found = find_packed(weights, form)
    if found is not None:
        return found
    path = _path(weights, form)
    if not usable_folder(path.parent):
        return _in_memory(weights, form)
    _, size = segments_of(weights.config, form)

    def pack(put: Sink) -> None:
        def counted(offset: int, part: Bytes) -> None:
            put(offset, part)
            if tell is not None:
                tell(offset + part.nbytes, size)

        _pack(weights, form, counted)

    try:
        write_sealed(path, _facts(weights, form), size, pack)
    except OSError as error:
        log.warning("cannot keep packed weights in %s: %s", path.parent, error)
        return _in_memory(weights, form)
    prune(path.parent, path)
    return find_packed(weights, form) or _in_memory(weights, form)


def find_packed(weights: LoadedWeights, form: Format | Packing) -> PackedWeights | None:
    """Return the weights of a model in a format if the cache has them."""
    path = _path(weights, form)
    if not path.exists() or not usable_folder(path.parent):
        return None
    found = open_sealed(path, _facts(weights, form), segments_of(weights.config, form)[1])
    if found is None:
        return None
    memory = Buffer.over(found[0], dt.u8, frozen=True)
    return PackedWeights(weights.config, form, weights.base_hash, memory, path, found[1])


def _path(weights: LoadedWeights, form: Format | Packing) -> Path:
    packing = packing_of(form)
    others = "".join(f"\0{name} {other}" for name, other in packing.others)
    text = f"{VERSION}\0{weights.base_hash}\0{packing}{others}"
    key = hashlib.sha256(text.encode()).hexdigest()
    return cache_root() / "weights" / key


def _facts(weights: LoadedWeights, form: Format | Packing) -> dict[str, Any]:
    """Return what the file's header must say, all of it known before the file is read."""
    segments, _ = segments_of(weights.config, form)
    return {
        "version": VERSION,
        "base": weights.base_hash,
        "format": str(packing_of(form)),
        "segments": {s.name: [str(s.form or "vector"), s.n, s.k, s.offset] for s in segments},
    }


def _in_memory(weights: LoadedWeights, form: Format | Packing) -> PackedWeights:
    _, size = segments_of(weights.config, form)
    memory = Buffer(size, dt.u8, device=HOST)

    def put(offset: int, part: Bytes) -> None:
        memory.write(part, offset)

    _pack(weights, form, put)
    memory.frozen = True
    return PackedWeights(weights.config, form, weights.base_hash, memory)


# -- packing --------------------------------------------------------------------------------------


def _pack(weights: LoadedWeights, form: Format | Packing, put: Sink) -> None:
    """Hand out the bytes of all segments in order, with their offsets."""
    # Late: a start that maps the file needs no compiler.
    from homebox.engine.runtime.pack_weights import LARGEST, packed

    weights.check_tied_head()
    segments, _ = segments_of(weights.config, form)
    for i, segment in enumerate(segments):
        for following in segments[i + 1 : i + 1 + _AHEAD]:
            for name in following.parts:
                weights.prefetch(name)
        if segment.form is None:
            vector = np.concatenate([weights[name].reshape(-1) for name in segment.parts])
            put(segment.offset, vector.view(np.uint8))
            continue
        at = segment.offset
        exact = _blocks(weights, segment)
        if exact is not None:
            put(at, exact)
        for piece in _pieces(weights, segment) if exact is None else ():
            for part, largest in packed(segment.form, piece):
                if not largest <= LARGEST[segment.form]:
                    raise _refused(weights, segment, segment.form)
                put(at, part)
                at += part.size
        for name in segment.parts:
            weights.release(name)


def _blocks(weights: LoadedWeights, segment: Segment) -> Bytes | None:
    """Return a segment's bytes if its matrices are stored as blocks of the same numbers."""
    if segment.form not in FROM_BLOCKS:
        return None
    found = [weights.blocks(name, segment.form) for name in segment.parts]
    blocks = [part for part in found if part is not None]
    if len(blocks) < len(found):
        return None
    try:
        return FROM_BLOCKS[segment.form](np.concatenate(blocks), segment.n, segment.k)
    except EngineError as error:
        raise weights.refuse(segment.parts[0], str(error)) from None


def _pieces(weights: LoadedWeights, segment: Segment) -> Iterator[Stored]:
    """Yield the matrix of a segment as it is stored, (n, k), in pieces; they are not checked."""
    if len(segment.parts) == 1:
        yield from weights.pieces(segment.name)
    else:
        yield _stacked(weights, segment)


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
