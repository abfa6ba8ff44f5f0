"""GGUF files that are broken in one known way each: the error names the file and what is wrong.

The controls take one check away and show that the same file then gets in, or does worse harm.
"""

import struct
import tracemalloc
from collections.abc import Callable

import pytest

from homebox.errors import ModelFormatError
from homebox.model.gguf import header, metadata
from homebox.model.gguf.header import parse
from tests.fuzz.gguf_cases import (
    ARRAY,
    BOOL,
    F32,
    FORMS,
    Q4_0,
    Q4_K,
    STRING,
    UINT32,
    UINT64,
    Draft,
    Entry,
    Tensor,
    add,
    array,
    number,
    text,
)

HUGE = 2**64 - 1
Change = Callable[[Draft], object]


def sound() -> Draft:
    """Return a file with which nothing is wrong."""
    draft = Draft()
    draft.entries = [
        Entry(b"general.architecture", STRING, text(b"llama")),
        Entry(b"words", ARRAY, array(STRING, [text(b"a"), text(b"b")])),
        Entry(b"flag", BOOL, b"\1"),
    ]
    add(draft, b"first", [32, 2], Q4_0)
    add(draft, b"second", [5], F32)
    return draft


def setting(**values: object) -> Change:
    return lambda draft: [setattr(draft, name, value) for name, value in values.items()]


def tensor(index: int = 0, **values: object) -> Change:
    return lambda draft: [setattr(draft.tensors[index], key, to) for key, to in values.items()]


def entry(kind: int, value: bytes, key: bytes = b"bad", length: int | None = None) -> Change:
    return lambda draft: draft.entries.append(Entry(key, kind, value, length))


def alignment(value: float, kind: int = UINT32) -> Change:
    return entry(kind, number(kind, value), b"general.alignment")


def wrapped(inner: bytes, kind: int, times: int) -> bytes:
    """Return arrays within arrays."""
    for _ in range(times):
        inner, kind = array(kind, [inner], 1), ARRAY
    return inner


BAD: dict[str, tuple[Change, str]] = {
    "wrong magic": (setting(magic=b"GGUX"), r"magic: b'GGUX' is not GGUF's"),
    "format before GGUF": (setting(magic=b"tjgg"), "magic: is that of the formats before GGUF"),
    "version 0": (setting(version=0), "version: 0 is not supported; supported: 2, 3"),
    "version 1": (setting(version=1), "version: 1 is not supported"),
    "version 4": (setting(version=4), "version: 4 is not supported"),
    "big-endian": (setting(version=3 << 24), "version: the file is big-endian"),
    "2 ** 63 tensors": (setting(tensor_count=2**63), f"tensor count: {2**63} is above"),
    "tensors beyond the file": (
        setting(tensor_count=8000),
        "tensor count: 264000 bytes at .* are beyond",
    ),
    "2 ** 64 - 1 keys": (setting(entry_count=HUGE), f"metadata count: {HUGE} is above"),
    "keys beyond the file": (setting(entry_count=4000), "metadata count: .* bytes at .* beyond"),
    "one tensor too many": (setting(tensor_count=3), "tensor 2"),
    "one key too many": (setting(entry_count=4), "name of tensor 0: has"),
    "text beyond the file": (entry(STRING, text(b"a", 10**6)), "bad: 1000000 bytes at .* beyond"),
    "text of 2 ** 64 - 1": (entry(STRING, text(b"a", HUGE)), f"bad: {HUGE} bytes at .* beyond"),
    "key of 2 ** 64 - 1": (entry(BOOL, b"\0", length=HUGE), f"key 3: has {HUGE} bytes; must"),
    "key of 2 ** 16": (entry(BOOL, b"\0", b"k" * 65536), "key 3: has 65536 bytes; must"),
    "empty key": (entry(BOOL, b"\0", b""), "key 3: has 0 bytes"),
    "key is not UTF-8": (entry(BOOL, b"\0", b"a\xff"), "metadata key 3: is not UTF-8"),
    "key of two lines": (entry(BOOL, b"\0", b"a\nb"), r"key 3: 'a\\nb' has characters"),
    "text is not UTF-8": (entry(STRING, text(b"\xc3(")), "bad: is not UTF-8"),
    "text is a surrogate": (entry(STRING, text(b"\xed\xa0\x80")), "bad: is not UTF-8"),
    "duplicate key": (entry(BOOL, b"\0", b"flag"), "flag: occurs twice in the metadata"),
    "type of value 13": (entry(13, bytes(8)), "bad: unknown type of value 13"),
    "type of value 2 ** 32 - 1": (entry(2**32 - 1, bytes(8)), "bad: unknown type of value"),
    "bool of 2": (entry(BOOL, b"\2"), "bad: a bool must be 0 or 1, not 2"),
    "bools of 2": (entry(ARRAY, array(BOOL, [b"\0\1\2"], 3)), "bad: every bool must be 0 or 1"),
    "array of type 13": (entry(ARRAY, array(13, [bytes(8)])), "unknown type of value 13 in an"),
    "arrays 10,000 deep": (
        entry(ARRAY, wrapped(array(UINT32, [bytes(4)]), ARRAY, 10_000)),
        "bad: arrays of arrays are not supported",
    ),
    "array beyond the file": (entry(ARRAY, array(UINT32, [], 10**6)), "bad: 4000000 bytes at"),
    "array of 2 ** 62": (entry(ARRAY, array(UINT32, [], 2**62)), f"bad: {2**64} bytes at"),
    "array of 2 ** 61 doubles": (entry(ARRAY, array(12, [], 2**61)), f"bad: {2**64} bytes at"),
    "texts beyond the file": (entry(ARRAY, array(STRING, [], HUGE)), "bad: .* bytes at .* beyond"),
    "texts run out": (
        entry(ARRAY, array(STRING, [text(b"ab"), text(b"a", 10**9)])),
        "bad: string 1: .* bytes at .* beyond",
    ),
    "one of the texts is not UTF-8": (
        entry(ARRAY, array(STRING, [text(b"ab"), text(b"\xff")])),
        "bad: string 1 is not UTF-8",
    ),
    "alignment 0": (alignment(0), "general.alignment: must be a power of two from 8 to 65536"),
    "alignment 1": (alignment(1), "general.alignment: must"),
    "alignment 24": (alignment(24), "general.alignment: must"),
    "alignment 2 ** 31": (alignment(2**31), "general.alignment: must"),
    "alignment 32.0": (alignment(32.0, 6), "general.alignment: must be a uint32"),
    "alignment of 64 bits": (alignment(32, UINT64), "general.alignment: must be a uint32"),
    "alignment true": (alignment(1, BOOL), "general.alignment: must be a uint32"),
    "duplicate tensor": (tensor(1, name=b"first"), "first: occurs twice in the table of tensors"),
    "name of 65 bytes": (tensor(1, name=b"n" * 65), "name of tensor 1: has 65 bytes; must"),
    "name of 2 ** 64 - 1": (tensor(1, name_length=HUGE), f"name of tensor 1: has {HUGE} bytes"),
    "empty name": (tensor(1, name=b""), "name of tensor 1: has 0 bytes"),
    "name is not UTF-8": (tensor(1, name=b"\xff\xfe"), "name of tensor 1: is not UTF-8"),
    "name with a zero": (tensor(1, name=b"a\0b"), r"tensor 1: 'a\\x00b' has characters"),
    "no axes": (tensor(1, sizes=[]), "second: shape: 0 axes; must have 1 to 4"),
    "five axes": (tensor(1, sizes=[1] * 5), "second: shape: 5 axes; must have 1 to 4"),
    "2 ** 32 - 1 axes": (tensor(1, axes=2**32 - 1), "second: shape: 4294967295 axes"),
    "size 0": (tensor(1, sizes=[5, 0]), r"second: shape: \[5, 0\] of F32 does not fit"),
    "first size 0": (tensor(1, sizes=[0, 5]), r"second: shape: \[0, 5\] of F32 does not fit"),
    "size -1": (tensor(1, sizes=[HUGE]), "second: shape: .* of F32 does not fit"),
    "product of 2 ** 64": (tensor(1, sizes=[2**32, 2**32]), "second: shape: .* does not fit"),
    "product wraps to 5": (
        tensor(1, sizes=[5, 2**63 + 1, 2, 1]),
        "second: shape: .* does not fit into",
    ),
    "bytes wrap to 20": (tensor(1, sizes=[2**62 + 5]), "second: shape: .* does not fit into"),
    "row of 33": (tensor(sizes=[33]), "first: shape: a row of 33 numbers is no multiple of Q4_0"),
    "rows of 16": (tensor(sizes=[16, 4]), "first: shape: a row of 16 numbers is no multiple"),
    "row of 128 for a K type": (tensor(kind=Q4_K, sizes=[64]), "first: .* multiple of Q4_K's 256"),
    "type 4, which was removed": (tensor(kind=4), "first: unknown type 4"),
    "type 9999": (tensor(kind=9999), "first: unknown type 9999; supported: F32, F16"),
    "offset not aligned": (tensor(1, offset=40), "second: offset: 40 is no multiple of 32"),
    "offset beyond the file": (tensor(1, offset=128), "second: offset: 20 bytes at 128 are beyond"),
    "offset 2 ** 64 - 32": (tensor(1, offset=2**64 - 32), "second: offset: .* are beyond"),
    "end beyond the file": (tensor(1, sizes=[9]), "second: offset: 36 bytes at 64 are beyond"),
    "overlap": (tensor(1, offset=32), "second: offset: overlaps with first"),
    "same bytes twice": (tensor(1, offset=0), "(first|second): offset: overlaps with"),
    "no data": (setting(data=b""), "first: shape: .* does not fit into 0 bytes"),
}


def broken(case: str) -> bytes:
    draft = sound()
    BAD[case][0](draft)
    return draft.bytes()


def outcome(data: bytes) -> str:
    """Say how reading ended: accepted, refused, or with which other exception."""
    try:
        parse(data, "evil.gguf")
    except ModelFormatError:
        return "refused"
    except Exception as error:
        return type(error).__name__
    return "accepted"


def test_the_sound_file_is_accepted() -> None:
    found = parse(sound().bytes(), "x")
    assert [*found.metadata] == ["general.architecture", "words", "flag"]
    assert [info.shape for info in found.tensors.values()] == [(2, 32), (5,)]


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_named_and_need_no_memory(case: str) -> None:
    data = broken(case)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFormatError, match=BAD[case][1]) as caught:
            parse(data, "evil.gguf")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith("evil.gguf: ")
    assert len(str(caught.value)) < 400
    assert peak < 300_000


def test_every_cut_is_refused() -> None:
    data = sound().bytes()
    for length in range(len(data)):
        assert outcome(data[:length]) == "refused", length
    assert outcome(data) == "accepted"


def test_names_in_errors_are_short_and_harmless() -> None:
    draft = sound()
    draft.entries.append(Entry("ключ\u202e".encode() * 900, 99, b""))
    with pytest.raises(ModelFormatError) as caught:
        parse(draft.bytes(), "x")
    assert len(str(caught.value)) < 200
    assert str(caught.value).isascii()


def test_limits_hold_however_large_the_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "MAX_STRINGS", 3)
    two = Entry(b"more", ARRAY, array(STRING, [text(b""), text(b"")]))
    draft = sound()
    draft.entries.append(two)
    with pytest.raises(ModelFormatError, match="more: the arrays hold more than 3 strings"):
        parse(draft.bytes(), "x")
    monkeypatch.setattr(metadata, "MAX_HEADER_BYTES", 120)
    with pytest.raises(ModelFormatError, match="the header is above 120 bytes"):
        parse(sound().bytes(), "x")


# Controls.

LAYOUT = {"overlap", "same bytes twice"}
ALIGNMENT = {case for case in BAD if case.startswith("alignment") and "uint32" not in BAD[case][1]}


@pytest.mark.parametrize("case", sorted(LAYOUT))
def test_control_without_the_check_of_overlaps_they_get_in(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outcome(broken(case)) == "refused"
    monkeypatch.setattr(header, "check_overlaps", lambda *_: None)
    assert outcome(broken(case)) == "accepted"


@pytest.mark.parametrize("case", sorted(ALIGNMENT))
def test_control_without_the_check_of_the_alignment_it_gets_in(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(header, "_alignment", lambda *_: 32)
    assert outcome(broken(case)) == "accepted"


@pytest.mark.parametrize(
    ("limit", "case"),
    [
        ("_MAX_NAME", "name of 65 bytes"),
        ("_MAX_AXES", "five axes"),
        ("MAX_TENSORS", "2 ** 63 tensors"),
        ("MAX_KEYS", "2 ** 64 - 1 keys"),
    ],
)
def test_control_without_a_limit(limit: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A count is then held back only by the size of the file."""
    monkeypatch.setattr(header, limit, HUGE)
    data = broken(case)
    if "count" in BAD[case][1]:
        with pytest.raises(ModelFormatError, match=r"count: .* bytes at .* are beyond"):
            parse(data, "x")
    else:
        assert outcome(data) == "accepted"


def test_control_without_the_check_of_bounds_cut_files_do_harm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metadata.Reader, "require", lambda *_: None)
    data = sound().bytes()
    found = {outcome(data[:length]) for length in range(len(data))}
    assert "error" in found  # struct.error
    assert outcome(broken("texts run out")) == "error"
    assert outcome(broken("array of 2 ** 62")) == "OverflowError"
    assert outcome(broken("array of 2 ** 61 doubles")) == "ValueError"


def test_control_without_the_check_of_places_tensors_lie_outside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def placed(_: object, entry: header._Entry, alignment: int, start: int) -> header.TensorInfo:
        begin = start + entry.offset
        kind = header.GGMLType(entry.kind)
        return header.TensorInfo(entry.name, kind, entry.sizes, begin, begin + entry.sizes[0])

    monkeypatch.setattr(header, "_placed", placed)
    data = broken("offset beyond the file")
    assert parse(data, "x").tensors["second"].end > len(data)
    assert outcome(broken("bytes wrap to 20")) == "accepted"


def test_the_cases_write_what_they_say() -> None:
    assert number(UINT64, 7) == struct.pack("<Q", 7)
    assert set(FORMS) | {STRING, ARRAY} == set(range(13))
    assert Tensor(b"a", [1], F32, 0).axes is None
