"""GGUF files as plain data that can be broken part by part, and then written as bytes.

The one idea: a file is kept as its parts, each count and length beside what it counts, so that a
change of one of them leaves all others right.
"""

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

# The number of a value's type, and how one value is written.
FORMS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B"}
FORMS |= {10: "<Q", 11: "<q", 12: "<d"}
UINT32, BOOL, STRING, ARRAY, UINT64 = 4, 7, 8, 9, 10
F32, F16, Q4_0, Q8_0, Q4_K = 0, 1, 2, 8, 12

# Numbers and bytes of a block of some types, for drafts; the reader has its own table.
SIZES = {F32: (1, 4), F16: (1, 2), Q4_0: (32, 18), Q8_0: (32, 34), Q4_K: (256, 144)}
ODD = [0, 1, 2, 3, 7, 31, 33, 63, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32]
ODD += [2**40, 2**61, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1]
BAD_TEXTS = [b"", b"\xff", b"\xc3", b"\xed\xa0\x80", b"a\0b", b"\n", b"n" * 65, b"n" * 300]


@dataclass(slots=True)
class Entry:
    """One entry of the metadata; `value` is as in the file."""

    key: bytes
    kind: int
    value: bytes
    key_length: int | None = None


@dataclass(slots=True)
class Tensor:
    """One entry of the table; sizes innermost first, as in the file."""

    name: bytes
    sizes: list[int]
    kind: int
    offset: int
    axes: int | None = None
    name_length: int | None = None


@dataclass(slots=True)
class Draft:
    """A file; what is None is written as it ought to be."""

    entries: list[Entry] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    data: bytes = b""
    magic: bytes = b"GGUF"
    version: int = 3
    tensor_count: int | None = None
    entry_count: int | None = None
    alignment: int = 32

    def bytes(self) -> bytes:
        counts = [self.tensor_count, self.entry_count]
        real = [len(self.tensors), len(self.entries)]
        tensors, entries = (r if c is None else c for c, r in zip(counts, real, strict=True))
        parts = [self.magic, struct.pack("<IQQ", self.version, tensors, entries)]
        for entry in self.entries:
            length = len(entry.key) if entry.key_length is None else entry.key_length
            parts += [struct.pack("<Q", length), entry.key, struct.pack("<I", entry.kind)]
            parts.append(entry.value)
        for tensor in self.tensors:
            length = len(tensor.name) if tensor.name_length is None else tensor.name_length
            axes = len(tensor.sizes) if tensor.axes is None else tensor.axes
            parts += [struct.pack("<Q", length), tensor.name, struct.pack("<I", axes)]
            parts.append(struct.pack(f"<{len(tensor.sizes)}Q", *tensor.sizes))
            parts.append(struct.pack("<IQ", tensor.kind, tensor.offset))
        head = b"".join(parts)
        return head + bytes(-len(head) % self.alignment) + self.data


def text(value: bytes, length: int | None = None) -> bytes:
    """Write a string; `length` is what the file says of it."""
    return struct.pack("<Q", len(value) if length is None else length) + value


def array(kind: int, values: list[bytes], count: int | None = None) -> bytes:
    """Write an array of values that are written already."""
    return struct.pack("<IQ", kind, len(values) if count is None else count) + b"".join(values)


def number(kind: int, value: float) -> bytes:
    """Write one number of the metadata."""
    return struct.pack(FORMS[kind], value)


def add(draft: Draft, name: bytes, sizes: list[int], kind: int) -> None:
    """Add a tensor with bytes of its own, behind those that are there."""
    block, nbytes = SIZES[kind]
    count = 1
    for size in sizes:
        count *= size
    offset = -(-len(draft.data) // draft.alignment) * draft.alignment
    length = count // block * nbytes
    filling = bytes((offset + i * 37) & 0xFF for i in range(64)) * (length // 64 + 1)
    draft.data = draft.data.ljust(offset, b"\0") + filling[:length]
    draft.tensors.append(Tensor(name, list(sizes), kind, offset))


def valid(dice: random.Random) -> Draft:
    """Return a small sound file with a bit of everything."""
    alignment = dice.choice([32, 32, 8, 64])
    draft = Draft(version=dice.choice([2, 3]), alignment=alignment)
    words = [text(b"a"), text(b""), text("é😀".encode()), text(b"<|end|>")]
    draft.entries = [
        Entry(b"general.architecture", STRING, text(b"llama")),
        Entry(b"general.alignment", UINT32, number(UINT32, alignment)),
        Entry(b"llama.block_count", UINT32, number(UINT32, 2)),
        Entry(b"llama.rope.freq_base", 6, number(6, 1e4)),
        Entry(b"tokenizer.ggml.tokens", ARRAY, array(STRING, words)),
        Entry(b"tokenizer.ggml.scores", ARRAY, array(6, [number(6, -i) for i in range(4)])),
        Entry(b"tokenizer.ggml.add_bos_token", BOOL, b"\1"),
        Entry(b"flags", ARRAY, array(BOOL, [b"\0", b"\1"])),
    ]
    dice.shuffle(draft.entries)
    for index in range(dice.randrange(1, 4)):
        kind = dice.choice(list(SIZES))
        sizes = [SIZES[kind][0] * dice.randrange(1, 3)]
        sizes += [dice.randrange(1, 4) for _ in range(dice.randrange(3))]
        add(draft, b"blk.%d.weight" % index, sizes, kind)
    return draft


# Changes that know the structure. Each takes a sound file, or what another change left of one.


def _counts(dice: random.Random, draft: Draft) -> None:
    if dice.random() < 0.5:
        draft.tensor_count = _near(dice, len(draft.tensors))
    else:
        draft.entry_count = _near(dice, len(draft.entries))


def _magic_or_version(dice: random.Random, draft: Draft) -> None:
    if dice.random() < 0.5:
        draft.magic = dice.choice([b"GGUf", b"lmgg", b"tjgg", b"FUGG", b"\0\0\0\0"])
    else:
        draft.version = dice.choice([0, 1, 4, 2 << 24, 3 << 24, 2**32 - 1])


def _key(dice: random.Random, draft: Draft) -> None:
    entry = dice.choice(draft.entries)
    kind = dice.randrange(3)
    if kind == 0:
        entry.key = dice.choice(BAD_TEXTS)
    elif kind == 1:
        entry.key_length = _near(dice, len(entry.key))
    else:
        entry.key = dice.choice(draft.entries).key


def _value(dice: random.Random, draft: Draft) -> None:
    entry = dice.choice(draft.entries)
    kind = dice.randrange(5)
    if kind == 0:
        entry.kind = dice.choice([*range(14), 255, 2**32 - 1])
    elif kind == 1:
        entry.kind, entry.value = STRING, text(b"abc", _near(dice, 3))
    elif kind == 2:
        inner = dice.choice([*FORMS, STRING, ARRAY, 13, 2**32 - 1])
        entry.kind, entry.value = ARRAY, array(inner, [bytes(8)] * 3, _near(dice, 3))
    elif kind == 3:
        words = [text(b"a"), text(b"b", _near(dice, 1)), text(dice.choice(BAD_TEXTS))]
        entry.kind, entry.value = ARRAY, array(STRING, words, _near(dice, 3))
    else:
        value = dice.randbytes(len(entry.value))
        entry.value = value[: dice.randrange(len(value) + 1)]


def _alignment(dice: random.Random, draft: Draft) -> None:
    for entry in draft.entries:
        if entry.key == b"general.alignment":
            entry.kind = dice.choice([UINT32, UINT32, UINT32, UINT64, 6, BOOL])
            value = dice.choice([0, 1, 2, 8, 31, 33, 64, 96, 2**16, 2**17, 2**31, 2**32 - 1])
            entry.value = number(entry.kind, value & 1 if entry.kind == BOOL else value)


def _name(dice: random.Random, draft: Draft) -> None:
    tensor = dice.choice(draft.tensors)
    kind = dice.randrange(3)
    if kind == 0:
        tensor.name = dice.choice(BAD_TEXTS)
    elif kind == 1:
        tensor.name_length = _near(dice, len(tensor.name))
    else:
        tensor.name = dice.choice(draft.tensors).name


def _sizes(dice: random.Random, draft: Draft) -> None:
    tensor = dice.choice(draft.tensors)
    kind = dice.randrange(4)
    if kind == 0 and tensor.sizes:
        place = dice.randrange(len(tensor.sizes))
        tensor.sizes[place] = _near(dice, tensor.sizes[place])
    elif kind == 1:
        tensor.sizes += [dice.choice([1, 1, 2, *ODD])] * dice.randrange(1, 4)
    elif kind == 2:
        tensor.axes = dice.choice([0, 1, 2, 3, 4, 5, 2**31, 2**32 - 1])
    else:
        del tensor.sizes[dice.randrange(len(tensor.sizes) + 1) :]


def _type(dice: random.Random, draft: Draft) -> None:
    dice.choice(draft.tensors).kind = dice.choice([*range(44), 255, 2**31, 2**32 - 1])


def _offset(dice: random.Random, draft: Draft) -> None:
    tensor = dice.choice(draft.tensors)
    if dice.random() < 0.3:
        tensor.offset = dice.choice(draft.tensors).offset
    else:
        tensor.offset = _near(dice, tensor.offset, dice.choice([1, 4, 8, draft.alignment]))


def _data(dice: random.Random, draft: Draft) -> None:
    if dice.random() < 0.5:
        draft.data = draft.data[: dice.randrange(len(draft.data) + 1)]
    else:
        draft.data += bytes(dice.randrange(1, 65))


def _near(dice: random.Random, value: int, step: int = 1) -> int:
    """Return an odd number, or one beside `value`."""
    if dice.random() < 0.4:
        return (value + dice.choice([-2, -1, 1, 2]) * step) % 2**64
    return dice.choice(ODD)


CHANGES: list[Callable[[random.Random, Draft], None]] = [
    _counts,
    _magic_or_version,
    _key,
    _value,
    _value,
    _alignment,
    _name,
    _sizes,
    _sizes,
    _type,
    _offset,
    _offset,
    _data,
]


def broken_bytes(dice: random.Random, data: bytes) -> bytes:
    """Change bytes that nobody knows the meaning of."""
    spot = dice.randrange(len(data) + 1)
    kind = dice.randrange(5)
    if kind == 0:
        return data[:spot]
    if kind == 1:
        return data[:spot] + dice.randbytes(dice.choice([1, 4, 8])) + data[spot:]
    if kind == 2:
        return data[:spot] + data[spot + dice.choice([1, 4, 8]) :]
    if kind == 3:
        odd = struct.pack("<Q", dice.choice(ODD))
        return data[:spot] + odd[: dice.choice([1, 4, 8])] + data[spot + 8 :]
    changed = bytearray(data)
    if changed:
        changed[spot % len(changed)] ^= 1 << dice.randrange(8)
    return bytes(changed)


def case(dice: random.Random) -> bytes:
    """Return one file: mostly a sound one with one or two changes."""
    draft = valid(dice)
    for _ in range(dice.choice([0, 1, 1, 1, 1, 2])):
        if draft.tensors and draft.entries:
            dice.choice(CHANGES)(dice, draft)
    data = draft.bytes()
    return broken_bytes(dice, data) if dice.random() < 0.3 else data
