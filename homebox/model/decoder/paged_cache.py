"""Keys and values of past tokens in pages of 64 positions, in the layout that attention reads.

The one idea: a layer has one buffer of pages, a sequence is a table of page numbers, and every
size is fixed; what is where is read at run time, so that one program serves every sequence.
Invariant: `append` writes only places that it is given, and `attend` gives a row the same bits
whatever rows and sequences it is computed with.

A page holds for each kv head its keys as [head_dim][64 positions], then its values as
[64 positions][dim], dim = head_dim rounded up to 16, so that both are read as one stream. In q8
numbers are int8 with a float32 scale for each position and 32 channels: for each 32 channels
64 scales, then the numbers [32][64] of keys or [64][32] of values.
"""

from typing import Literal

import numpy as np

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.dtype import DType
from homebox.engine.graph.formats import A8, BLOCK
from homebox.engine.graph.ops import Op, node
from homebox.engine.graph.tensor import Tensor, size_of
from homebox.errors import EngineError
from homebox.model.config import ModelConfig
from homebox.model.decoder.masked_attention import masked_attention, visible
from homebox.model.decoder.panels import round_up

PAGE = 64
PIECE = PAGE * (BLOCK + 4)  # bytes of 32 channels in q8
KINDS: dict[str, DType] = {"f32": dt.f32, "f16": dt.f16, "bf16": dt.bf16, "q8": dt.u8}

Kind = DType | Literal["q8"]


class PagedCache:
    """Keys and values of all layers: `pages` pages of 64 positions, one buffer for each layer.

    `dtype` is float32, float16, bfloat16 or "q8" (int8 with a scale for 32 channels, for which
    head_dim must be a multiple of 32). Raises EngineError for anything else. `layers` are those
    that it holds, by default all; `memory` has their buffers in order.
    """

    PAGE = PAGE

    def __init__(
        self,
        config: ModelConfig,
        pages: int,
        dtype: Kind = dt.f16,
        layers: range | None = None,
    ) -> None:
        self.quantised = dtype == "q8"
        kind = dt.u8 if isinstance(dtype, str) else dtype
        if kind not in KINDS.values() or (kind is dt.u8) != self.quantised:
            raise EngineError(f"a KV cache is of f32, f16, bf16 or q8, not {dtype}")
        if self.quantised and config.head_dim % BLOCK:
            raise EngineError(
                f"a q8 KV cache needs heads of a multiple of {BLOCK} channels, this model has "
                f"{config.head_dim}; use f16"
            )
        self.config, self.pages, self.dtype = config, pages, kind
        self.heads, self.head_dim = config.num_kv_heads, config.head_dim
        self.dim = round_up(config.head_dim)
        self.key_size, self.value_size = head_sizes(config, self.quantised)
        self.head_size = self.key_size + self.value_size  # elements of a head in a page
        self.page_size = self.heads * self.head_size
        self.layers = range(config.num_layers) if layers is None else layers
        self.memory = [Tensor.zeros((pages * self.page_size,), kind) for _ in self.layers]
        self._zeros: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """The memory of all layers in bytes."""
        return sum(m.buffer.nbytes for m in self.memory)

    def copy_page(self, source: int, target: int) -> None:
        """Copy the contents of a page in all layers; no program may be running."""
        for memory in self.memory:
            size = self.page_size
            memory.buffer.copy(source * size, target * size, size)

    def clear_page(self, page: int) -> None:
        """Zero a page in all layers; no program may be running."""
        if self._zeros is None:
            self._zeros = np.zeros(self.page_size, self.dtype.to_numpy())
        for memory in self.memory:
            memory.buffer.write(self._zeros, page * self.page_size)

    def read_page(self, page: int) -> list[np.ndarray]:
        """Return the bytes of a page, uint8, for each layer; in host memory they are views."""
        size = self.page_size
        parts = [memory.buffer.read(page * size, size) for memory in self.memory]
        return [part.view(np.uint8) for part in parts]

    def write_page(self, page: int, content: np.ndarray) -> None:
        """Put bytes where `read_page` had them: those of all layers, uint8, in order."""
        kind = self.dtype.to_numpy()
        parts = content.view(kind).reshape(len(self.memory), self.page_size)
        for memory, part in zip(self.memory, parts, strict=True):
            memory.buffer.write(part, page * self.page_size)

    # -- writing --------------------------------------------------------------------------------

    def append(self, layer: int, k: Tensor, v: Tensor, places: Tensor) -> Tensor:
        """Write k, v (N, kv heads, head_dim) at `places` (N,) = page * 64 + offset; -1 is skipped.

        Places that are not -1 must differ from each other. Returns the layer's memory after it.
        """
        rows, heads, dim = size_of(k.shape[0]), self.heads, self.head_dim
        shape = (2, rows, heads, dim)
        keys_first = Tensor.iota(2).reshape((2, 1, 1, 1)).equal(0)
        both = keys_first.where(k.reshape((1, *shape[1:])), v.reshape((1, *shape[1:])))
        place = places.reshape((1, rows, 1, 1))
        head = Tensor.iota(heads).reshape((1, 1, heads, 1)) * self.head_size
        if self.quantised:
            return self._append_quantised(layer, both, place, head, keys_first)
        channel = Tensor.iota(dim).reshape((1, 1, 1, dim))
        inside = place.maximum(0)
        start, offset = inside // PAGE * self.page_size + head, inside % PAGE
        key_at = start + channel * PAGE + offset
        value_at = start + offset * self.dim + channel + self.key_size
        at = (place < 0).where(-1, keys_first.where(key_at, value_at)).broadcast(shape)
        return self.memory[self.layers.index(layer)].store(both.cast(self.dtype), at, unique=True)

    def _append_quantised(
        self, layer: int, both: Tensor, place: Tensor, head: Tensor, keys_first: Tensor
    ) -> Tensor:
        """Write rows in format a8: a float32 scale, an int32 sum (left out), 32 int8, and again."""
        _, rows, heads, dim = (size_of(d) for d in both.shape)
        blocks = dim // BLOCK
        flat = both.reshape((2 * rows * heads, dim))
        width = A8.panel_bytes(dim)
        packed = Tensor(node(Op.PACK, dt.u8, (2 * rows * heads, width), (flat.node,), A8))
        stored = packed.reshape((2, rows, heads, blocks, A8.unit_bytes))
        # The four bytes of the scale, then the numbers.
        byte = Tensor.iota(A8.unit_bytes).reshape((1, 1, 1, 1, A8.unit_bytes))
        number = byte + -8
        place, head = place.reshape((1, rows, 1, 1, 1)), head.reshape((1, 1, heads, 1, 1))
        keys_first = keys_first.reshape((2, 1, 1, 1, 1))
        block = Tensor.iota(blocks).reshape((1, 1, 1, blocks, 1))
        inside = place.maximum(0)
        start, offset = inside // PAGE * self.page_size + head, inside % PAGE
        scale_at = offset * 4 + byte
        key_at, value_at = number * PAGE + offset, offset * BLOCK + number + self.key_size
        scale_at = keys_first.where(scale_at, scale_at + self.key_size)
        number_at = keys_first.where(key_at, value_at) + 4 * PAGE
        at = start + block * PIECE + (number < 0).where(scale_at, number_at)
        skipped = (place < 0).where(True, (byte > 3) & (number < 0))
        at = skipped.where(-1, at).broadcast(stored.shape)
        return self.memory[self.layers.index(layer)].store(stored, at, unique=True)

    # -- reading --------------------------------------------------------------------------------

    def attend(
        self,
        layer: int,
        memory: Tensor,
        query: Tensor,
        positions: Tensor,
        tables: Tensor,
        window: int | None = None,
        cap: float | None = None,
        sinks: Tensor | None = None,
        scale: float | None = None,
    ) -> Tensor:
        """Attend from query (B, T, heads, head_dim) f32 at positions (B, T) to each one's past.

        `memory` is what `append` returned, tables (B, max_pages) int32 the sequences' pages. A row
        at position p sees the keys 0 .. p of its sequence, with a window only the last `window` of
        them; one at -1 sees nothing and gives zeros. Queries are multiplied with `scale`, by
        default head_dim^-0.5; `cap` and `sinks` (heads,) are those of `masked_attention`. Returns
        (B, T, heads * head_dim).
        """
        batch, length, heads, dim = (size_of(d) for d in query.shape)
        groups = heads // self.heads
        scaled = query * (dim**-0.5 if scale is None else scale)
        q = scaled.reshape((batch, length, self.heads, groups, dim)).permute(0, 2, 3, 1, 4)
        keys, values = self._past(memory, tables)
        seen = visible(positions, size_of(tables.shape[1]) * PAGE, window)
        if sinks is not None:
            sinks = sinks.reshape((self.heads, groups))
        out = masked_attention(q, keys, values, seen, cap, sinks)
        return out.permute(0, 3, 1, 2, 4).reshape((batch, length, heads * dim))

    def _past(self, memory: Tensor, tables: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of each sequence's pages, both (B, kv heads, 1, L, head_dim)."""
        batch, count = (size_of(d) for d in tables.shape)
        heads, dim = self.heads, self.head_dim
        pages = memory.reshape((self.pages, self.page_size)).gather(tables)
        parts = pages.reshape((batch, count, heads, self.head_size))
        key_part = parts.slice(3, 0, self.key_size)
        value_part = parts.slice(3, self.key_size, self.value_size)
        if self.quantised:
            return self._dequantised(key_part, value_part)
        keys = key_part.reshape((batch, count, heads, dim, PAGE)).permute(0, 2, 1, 4, 3)
        values = value_part.reshape((batch, count, heads, PAGE, self.dim)).permute(0, 2, 1, 3, 4)
        shape = (batch, heads, 1, count * PAGE)
        values = values.reshape((*shape, self.dim)).slice(4, 0, dim)
        return keys.reshape((*shape, dim)).cast(dt.f32), values.cast(dt.f32)

    def _dequantised(self, key_part: Tensor, value_part: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of pages of q8 as numbers times scales."""
        batch, count, heads = (size_of(d) for d in key_part.shape[:3])
        dim, blocks = self.head_dim, self.head_dim // BLOCK

        def parts(stored: Tensor) -> tuple[Tensor, Tensor]:
            pieces = stored.reshape((batch, count, heads, blocks, PIECE))
            number = pieces.slice(4, 4 * PAGE, BLOCK * PAGE).bitcast(dt.i8).cast(dt.f32)
            return number, float_of(pieces.slice(4, 0, 4 * PAGE))

        shape = (batch, heads, 1, count * PAGE, dim)
        number, scale = parts(key_part)
        keys = number.reshape((batch, count, heads, blocks, BLOCK, PAGE))
        keys = keys * scale.reshape((batch, count, heads, blocks, 1, PAGE))
        number, scale = parts(value_part)
        values = number.reshape((batch, count, heads, blocks, PAGE, BLOCK))
        values = values * scale.reshape((batch, count, heads, blocks, PAGE, 1))
        keys, values = keys.permute(0, 2, 1, 5, 3, 4), values.permute(0, 2, 1, 4, 3, 5)
        return keys.reshape(shape), values.reshape(shape)


def head_sizes(config: ModelConfig, quantised: bool) -> tuple[int, int]:
    """Return the elements that keys and values of a head take in a page."""
    if quantised:
        return (config.head_dim // BLOCK * PIECE,) * 2
    return PAGE * config.head_dim, PAGE * round_up(config.head_dim)


def page_bytes(config: ModelConfig, kind: Kind) -> int:
    """Return the bytes of a page of one layer."""
    size = 1 if isinstance(kind, str) else kind.size
    return config.num_kv_heads * sum(head_sizes(config, kind == "q8")) * size


def float_of(stored: Tensor) -> Tensor:
    """Return the float32 numbers that groups of four bytes along the last axis hold."""
    words = stored.reshape((*stored.shape[:-1], size_of(stored.shape[-1]) // 4, 4)).cast(dt.u32)
    last = words.ndim - 1
    total = words.slice(last, 0, 1)
    for i in (1, 2, 3):
        total = total + words.slice(last, i, 1) * (1 << 8 * i)
    return total.bitcast(dt.f32).reshape(words.shape[:-1])
