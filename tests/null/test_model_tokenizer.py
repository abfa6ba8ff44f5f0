"""The tokenizer against sentencepiece itself, in streams, and against hostile vocabularies."""

import random
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from homebox.errors import ModelFormatError, ModelNotFoundError, RequestError
from homebox.model.tokenizer import sentencepiece_file
from homebox.model.tokenizer.load import StreamDecoder, Tokenizer
from homebox.model.tokenizer.sentencepiece_file import (
    BYTE,
    MAX_MODEL_BYTES,
    Vocabulary,
    VocabularyPiece,
    parse_model,
)
from homebox.model.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer
from tests.unit.model_files import CALLS, MARKS, train_tokenizer

TEXTS = (
    "",
    " ",
    "the fish swims",
    "  two  spaces ",
    "line\nbreak\r\n\ttab",
    "Ångström über 日本語 🎣 e\u0301",
    "\x00\x01 control",
    "unk: \u0e01\ufffd",
    "'quoted' (tea) 1234567890",
)
# Every kind of vocabulary that the reader accepts.
KINDS: dict[str, dict[str, object]] = {
    "bpe": {},
    "unigram": {"kind": "unigram", "size": 350},
    "normalised": {"rule": "nmt_nfkc", "remove_spaces": True},
    "folded": {"rule": "nmt_nfkc_cf", "kind": "unigram", "size": 350},
    "no bytes": {"byte_fallback": False, "size": 120},
    "no prefix": {"dummy_prefix": False},
}


def trained(kind: str, **changes: object) -> bytes:
    return train_tokenizer(**{**KINDS[kind], **changes})  # type: ignore[arg-type]


def own(data: bytes) -> Tokenizer:
    return SentencePieceTokenizer(parse_model(data, "t.model"), "t.model")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return own(train_tokenizer())


@pytest.mark.parametrize("kind", KINDS)
def test_encodes_and_decodes_like_sentencepiece(kind: str) -> None:
    data = trained(kind)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=data)
    ours = own(data)
    assert ours.size == theirs.get_piece_size()
    dice = random.Random(3)
    alphabet = [*"fishtea nr  ;\n12Åü語🎣", "  "]
    texts = [*TEXTS, *("".join(dice.choices(alphabet, k=12)) for _ in range(300))]
    for text in texts:
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.decode(ids) == theirs.decode(ids)


def test_matches_sentencepiece_on_published_vocabularies(shared: Path) -> None:
    for path in (
        shared / "data/weights/stories260K/tokenizer.model",
        shared / "data/tokenizers/llama2-32000-tokenizer.model",
    ):
        theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
        ours = SentencePieceTokenizer.from_file(path)
        for text in TEXTS:
            ids = ours.encode(text)
            assert ids == theirs.encode(text)
            assert ours.decode(ids) == theirs.decode(ids)
        assert ours.special == {"<s>": 1, "</s>": 2}


@pytest.mark.parametrize("mark", [*MARKS, *CALLS])
@pytest.mark.parametrize("pattern", ["{}", "a{}b", " {} ", "{0}{0}", "\n{}\n", "<|{}|>"])
def test_text_never_becomes_a_mark(tokenizer: Tokenizer, mark: str, pattern: str) -> None:
    text = pattern.format(mark)
    ids = tokenizer.encode(text)
    assert not set(ids) & set(tokenizer.special.values())
    assert tokenizer.decode(ids) == text


def test_control_sentencepiece_alone_takes_marks_out_of_text() -> None:
    theirs = sentencepiece.SentencePieceProcessor(model_proto=train_tokenizer())
    assert theirs.piece_to_id("<|end|>") in theirs.encode("hello <|end|>")


def test_marks_are_inserted_only_on_request(tokenizer: Tokenizer) -> None:
    user, end = tokenizer.special["<|user|>"], tokenizer.special["<|end|>"]
    ids = tokenizer.encode_marked("<|user|>the fish<|end|>")
    assert ids == [user, *tokenizer.encode("the fish"), end]
    assert tokenizer.decode(ids) == "the fish"
    assert tokenizer.decode(ids, special=True) == "<|user|>the fish<|end|>"


def test_marks_of_tool_calls_count_in_answers_and_are_shown(tokenizer: Tokenizer) -> None:
    text = "<tool_call> get_time city: Oslo</tool_call>"
    theirs = sentencepiece.SentencePieceProcessor(model_proto=train_tokenizer())
    ids = tokenizer.encode_answer(text)
    assert ids == theirs.encode(text)
    assert {tokenizer.special[mark] for mark in CALLS} <= set(ids)
    assert tokenizer.decode(ids) == text
    end = tokenizer.special["<|end|>"]
    assert end not in tokenizer.encode_answer("the end <|end|>")


def test_lone_surrogates_become_the_replacement_character(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("a\ud800b") == tokenizer.encode("a\ufffdb")
    assert tokenizer.encode("\ud83c\udfa3") == tokenizer.encode("🎣")


def test_ids_outside_of_the_vocabulary(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([tokenizer.size + 5]) == ""
    with pytest.raises(RequestError):
        tokenizer.decode([-1])


# Streams


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 399), max_size=40), st.booleans())
def test_streamed_text_joined_is_the_decoded_text(ids: list[int], continuation: bool) -> None:
    tokenizer = own(train_tokenizer())
    decoder = StreamDecoder(tokenizer, continuation=continuation)
    parts = [decoder.push(index) for index in ids]
    joined = "".join(parts) + decoder.flush()
    data = b"".join(tokenizer.piece_bytes(index) for index in ids)
    whole = data.decode("utf-8", "replace")
    if continuation:
        assert joined == whole
    else:
        assert joined == tokenizer.decode(ids)
        assert joined in (whole, whole[1:])


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_any_text_survives_and_no_piece_breaks_a_character(text: str) -> None:
    tokenizer = own(train_tokenizer(kind="bpe"))
    decoder = StreamDecoder(tokenizer)
    parts = [decoder.push(index) for index in tokenizer.encode(text)]
    expected = text.replace("\u2581", " ")  # the vocabulary's own sign for a space
    assert "".join(parts) + decoder.flush() == expected
    if "\ufffd" not in text:
        assert not any("\ufffd" in part for part in parts)


def test_a_continuation_keeps_its_first_space(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("fish")
    assert StreamDecoder(tokenizer).push(ids[0]) == tokenizer.decode(ids[:1])
    first = StreamDecoder(tokenizer, continuation=True).push(ids[0])
    assert first == " " + tokenizer.decode(ids[:1])


def test_an_unfinished_character_ends_as_a_replacement(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🎣")
    decoder = StreamDecoder(tokenizer)
    assert "".join(decoder.push(index) for index in ids[:-1]) == ""
    assert decoder.flush() == "\ufffd"


# Hostile vocabularies


def vocabulary() -> Vocabulary:
    return parse_model(train_tokenizer(), "t.model")


def with_piece(index: int, **changes: object) -> bytes:
    base = vocabulary()
    pieces = list(base.pieces)
    pieces[index] = replace(pieces[index], **changes)  # type: ignore[arg-type]
    return replace(base, pieces=tuple(pieces)).pack()


def with_charsmap(data: bytes) -> bytes:
    return replace(vocabulary(), charsmap=data).pack()


def byte_piece() -> int:
    return next(i for i, piece in enumerate(vocabulary().pieces) if piece.kind == BYTE)


BAD_MODELS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "UNKNOWN"),
    "text": (b"hello world", "t.model: "),
    "cut off": (train_tokenizer()[:-20], "cut off|wire"),
    "length beyond the end": (b"\x0a\xff\xff\xff\xff\x07", "cut off"),
    "endless number": (b"\x0a" + b"\xff" * 11, "longer than 10 bytes"),
    "field number 0": (b"\x02\x00", "field number 0"),
    "group": (b"\x0b", "wire type 3"),
    "pieces as a number": (b"\x08\x01", "wire type 0"),
    "too long": (bytes(MAX_MODEL_BYTES + 1), "longer than"),
    "piece twice": (
        with_piece(300, text=vocabulary().pieces[301].text),
        "twice",
    ),
    "two unknowns": (with_piece(300, kind=2), "2 of type UNKNOWN"),
    "no unknown": (with_piece(0, kind=1), "0 of type UNKNOWN"),
    "unknown type": (with_piece(300, kind=9), r"pieces\[300\].type"),
    "NaN score": (with_piece(300, score=float("nan")), r"pieces\[300\].score"),
    "infinite score": (with_piece(300, score=float("inf")), r"pieces\[300\].score"),
    "empty piece": (with_piece(300, text=""), r"pieces\[300\].piece"),
    "long piece": (with_piece(300, text="x" * 600), r"pieces\[300\].piece"),
    "NUL in a piece": (with_piece(300, text="a\0b"), r"pieces\[300\].piece"),
    "byte piece of another name": (with_piece(byte_piece(), text="<0xZZ>"), "type BYTE"),
    "255 byte pieces": (with_piece(byte_piece(), kind=1), "255 of type BYTE"),
    "word model": (replace(vocabulary(), kind="word").pack(), "word is not supported"),
    "charsmap: short": (with_charsmap(b"abc"), "precompiled_charsmap"),
    "charsmap: long trie": (with_charsmap(struct.pack("<I", 1 << 31) + bytes(2000)), "charsmap"),
    "charsmap: no text": (with_charsmap(struct.pack("<I", 1024) + bytes(1024)), "charsmap"),
    "charsmap: endless text": (
        with_charsmap(struct.pack("<I", 1024) + bytes(1024) + b"abc"),
        "does not end",
    ),
    "charsmap: outside": (
        with_charsmap(struct.pack("<I", 1024) + struct.pack("<I", 5 << 10 << 8) * 256 + b"\0"),
        "outside of itself",
    ),
    "charsmap: leaf outside": (
        with_charsmap(
            struct.pack("<I", 1024)
            + struct.pack("<I", 1 << 10 | 1 << 8)
            + struct.pack("<I", 1 << 31 | 77)
            + bytes(254 * 4)
            + b"\0"
        ),
        "outside of its texts",
    ),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_bad_models_are_named(case: str) -> None:
    data, message = BAD_MODELS[case]
    with pytest.raises(ModelFormatError, match=message) as caught:
        own(data)
    assert str(caught.value).startswith("t.model: ")
    assert len(str(caught.value)) < 300


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        SentencePieceTokenizer.from_file(tmp_path / "absent.model")
    with pytest.raises(ModelFormatError):
        SentencePieceTokenizer.from_file(tmp_path)


def fuzzed_models(count: int, seed: int) -> Iterator[bytes]:
    """Yield models that are broken at random, half of them inside the normaliser's table."""
    dice = random.Random(seed)
    plain, mapped = trained("unigram"), trained("folded")
    table = mapped.find(parse_model(mapped, "t").charsmap)
    for number in range(count):
        if number % 2:
            data = bytearray(mapped)
            for _ in range(dice.randrange(1, 6)):
                data[table + dice.randrange(4, 3000)] ^= 1 << dice.randrange(8)
        else:
            data = bytearray(plain)
            for _ in range(dice.randrange(1, 4)):
                spot = dice.randrange(len(data))
                kind = dice.randrange(3)
                if kind == 0:
                    data[spot] ^= 1 << dice.randrange(8)
                elif kind == 1:
                    del data[spot : spot + dice.randrange(1, 9)]
                else:
                    data[spot:spot] = dice.randbytes(dice.randrange(1, 9))
        yield bytes(data)


def walk_leaves_table(charsmap: bytes) -> bool:
    """Look every 1- and 2-byte text up as the library does; tell whether it reads outside."""
    length = int.from_bytes(charsmap[:4], "little") // 4
    units = struct.unpack(f"<{length}I", charsmap[4 : 4 + 4 * length])

    def down(node: int, byte: int) -> int | None:
        node ^= byte
        unit = units[node]
        if unit & (1 << 31 | 0xFF) != byte:
            return None
        node ^= (unit >> 10) << ((unit & 512) >> 6)
        if unit >> 8 & 1 and units[node] & 0x7FFFFFFF >= len(charsmap) - 4 - 4 * length:
            raise IndexError
        return node

    try:
        root = (units[0] >> 10) << ((units[0] & 512) >> 6)
        for first in range(1, 256):
            node = down(root, first)
            for second in range(1, 256) if node is not None else ():
                down(node or 0, second)
    except IndexError:
        return True
    return False


def test_fuzzed_models_are_refused_or_work() -> None:
    accepted = refused = 0
    for data in fuzzed_models(400, seed=8):
        try:
            tokenizer = own(data)
        except ModelFormatError:
            refused += 1
            continue
        accepted += 1
        for text in ("the fish", "ÅﬁⅧ日本\u3000x", "\x00\xff"):
            tokenizer.decode(tokenizer.encode(text))
    assert accepted > 40
    assert refused > 40


def test_control_without_the_table_check_lookups_leave_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = list(fuzzed_models(60, seed=8))[1::2]
    for data in models:
        try:
            assert not walk_leaves_table(parse_model(data, "t").charsmap)
        except ModelFormatError:
            continue
    monkeypatch.setattr(sentencepiece_file, "check_charsmap", lambda *_: None)
    assert any(walk_leaves_table(parse_model(data, "t").charsmap) for data in models)


def test_pack_and_parse_are_inverse() -> None:
    for kind in KINDS:
        first = parse_model(trained(kind), "t")
        assert parse_model(first.pack(), "t") == first
    assert isinstance(first.pieces[0], VocabularyPiece)
