"""Tokenizers of every file: the ids of other programs, text that stays text, hostile files."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from homebox.errors import ModelFormatError, ModelNotFoundError, RequestError
from homebox.model.gguf import GGUFFile
from homebox.model.tokenizer import json_tokenizer
from homebox.model.tokenizer.gguf_vocabulary import tokenizer_of
from homebox.model.tokenizer.json_tokenizer import JsonTokenizer
from homebox.model.tokenizer.json_tokenizer_file import check_tokenizer
from homebox.model.tokenizer.load import StreamDecoder, Tokenizer, load_tokenizer, tokenizer_files
from tests.unit.model_files import train_tokenizer
from tests.unit.tokenizer_files import (
    CHATML,
    SPECIALS,
    VISIBLE,
    byte_level,
    byte_level_metadata,
    spaced,
)

KINDS: dict[str, Callable[[], str]] = {
    "bytes": byte_level,
    "first": spaced,
    "always": lambda: spaced("always"),
    "never": lambda: spaced("never"),
    "normalizers": lambda: spaced("normalizers"),
}
WORDS = Path(__file__).parent / "word_ids.json"  # by tests/parity/test_live_tokenizers.py
MARK_LINE = "\n__ggml_vocab_test__\n"
TEXT = st.text() | st.lists(
    st.sampled_from(
        [
            "the fish",
            " ",
            "\n",
            "\n\n",
            "don't",
            "é",
            "e\u0301",
            "日本",
            "🎣",
            "<",
            "▁",
            "12",
            "<0x41>",
        ]
    )
).map("".join)


def own(text: str) -> JsonTokenizer:
    return JsonTokenizer(check_tokenizer(json.loads(text), "t.json"), "t.json")


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest) -> tuple[JsonTokenizer, tokenizers.Tokenizer]:
    text = KINDS[request.param]()
    return own(text), tokenizers.Tokenizer.from_str(text)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("ggml-vocab-gpt-2.gguf", "gpt-2"),
        ("ggml-vocab-llama-spm.gguf", "llama-spm"),
        ("qwen3-rebuilt-tokenizer.json", "qwen2"),
    ],
)
def test_ids_of_llama_cpp(shared: Path, file: str, name: str) -> None:
    folder = shared / "data/tokenizers"
    texts = (folder / f"ggml-vocab-{name}.gguf.inp").read_text().split(MARK_LINE)
    lines = (folder / f"ggml-vocab-{name}.gguf.out").read_text().split("\n")
    tokenizer = load_tokenizer(folder / file)
    assert len(texts) == len(lines) >= 46
    for text, line in zip(texts, lines, strict=True):
        ids = tokenizer.encode(text, add_special=False)
        assert ids == [int(number) for number in line.split()], text
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("file", ["ggml-vocab-gpt-2.gguf", "ggml-vocab-llama-spm.gguf"])
def test_any_text_comes_back_from_real_vocabularies(shared: Path, file: str) -> None:
    tokenizer = load_tokenizer(shared / "data/tokenizers" / file)

    @settings(deadline=None, max_examples=150)
    @given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁\0")))
    def comes_back(text: str) -> None:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        decoder = StreamDecoder(tokenizer)
        assert "".join(map(decoder.push, ids)) + decoder.flush() == text

    comes_back()


def test_words_of_llama_cpp(shared: Path) -> None:
    with GGUFFile(shared / "data/tokenizers/ggml-vocab-gpt-2.gguf") as file:
        metadata = dict(file.metadata)
    expected = json.loads(WORDS.read_text())
    assert {"llama-bpe", "qwen2", "smollm", "tekken", "gpt-4o"} <= {row["rule"] for row in expected}
    seen = set()
    for row in expected:
        tokenizer = tokenizer_of({**metadata, "tokenizer.ggml.pre": row["rule"]}, row["rule"])
        found = {text: tokenizer.encode(text, add_special=False) for text in row["ids"]}
        assert found == row["ids"], row["rule"]
        seen.add(json.dumps(found))
    assert len(seen) >= 5


@settings(deadline=None, max_examples=60)
@given(text=TEXT)
def test_ids_and_texts_of_the_package(
    pair: tuple[JsonTokenizer, tokenizers.Tokenizer], text: str
) -> None:
    ours, theirs = pair
    ids = ours.encode(text)
    wanted = theirs.encode(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    assert ids == wanted.ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("kind", KINDS)
def test_marked_texts_have_the_ids_of_the_package(kind: str) -> None:
    ours, theirs = own(KINDS[kind]()), tokenizers.Tokenizer.from_str(KINDS[kind]())
    for text in (
        "<|im_start|>user\nthe fish<|im_end|>\n",
        " <|im_start|> the <think> fish</think>\n\n<|im_end|><|im_end|>",
        "the<|im_end|>the",
        "<|im_<|im_end|>end|>",
        "",
    ):
        assert ours.encode_marked(text) == theirs.encode(text).ids
    parts = ["<|im_start|>", "the fish<|im_end|>", "\n the"]
    afters = ["", "mark", "mark"]
    ids = [ours.encode_marked(p, after=a) for p, a in zip(parts, afters, strict=True)]  # type: ignore[arg-type]
    assert [index for part in ids for index in part] == theirs.encode("".join(parts)).ids


@pytest.mark.parametrize("mark", SPECIALS + VISIBLE)
@pytest.mark.parametrize("pattern", ["{}", "a {} b", "{0}{0}", "\n{}\n", "<{}>", "▁{}"])
def test_text_never_becomes_a_mark(
    pair: tuple[JsonTokenizer, tokenizers.Tokenizer], mark: str, pattern: str
) -> None:
    ours, theirs = pair
    text = pattern.format(mark)
    ids = ours.encode(text)
    assert not set(ids) & set(ours.special.values())
    assert ours.decode(ids) == theirs.decode(ids)
    assert ours.decode(ids).strip(" ▁") == text.strip("▁")
    # The control: without the names that nobody can type, the text is the mark.
    assert ours.special[mark] in theirs.encode(text).ids
    answer = ours.encode_answer(text)
    assert (ours.special[mark] in answer) == (mark in VISIBLE)


def test_hidden_marks_are_not_shown_and_visible_ones_are() -> None:
    ours = own(byte_level())
    ids = ours.encode_marked("<|im_start|><think>the fish</think><|im_end|>")
    assert ours.decode(ids) == "<think>the fish</think>"
    assert ours.decode(ids, special=True) == "<|im_start|><think>the fish</think><|im_end|>"
    assert ours.special["<think>"] not in ours.hidden


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_streams_give_what_decode_gives(kind: str, data: st.DataObject) -> None:
    tokenizer = own(KINDS[kind]())
    ids = data.draw(st.lists(st.integers(0, tokenizer.size + 3), max_size=30))
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.push(index) for index in ids]
    assert "".join(pieces) + decoder.flush() == tokenizer.decode(ids)
    shown = b"".join(tokenizer.piece_bytes(index) for index in ids).decode("utf-8", "replace")
    assert tokenizer.decode(ids).strip(" ") == shown.strip(" ")


def test_begin_and_end_of_text_come_from_the_file() -> None:
    raw = json.loads(byte_level())
    begin, end = (
        next(t["id"] for t in raw["added_tokens"] if t["content"] == s) for s in SPECIALS[1:]
    )
    raw["post_processor"] = {
        "type": "Sequence",
        "processors": [
            {
                "type": "ByteLevel",
                "add_prefix_space": True,
                "trim_offsets": False,
                "use_regex": True,
            },
            {
                "type": "TemplateProcessing",
                "single": [
                    {"SpecialToken": {"id": "B", "type_id": 0}},
                    {"Sequence": {"id": "A", "type_id": 0}},
                    {"SpecialToken": {"id": "E", "type_id": 0}},
                ],
                "pair": [],
                "special_tokens": {
                    "B": {"id": "B", "ids": [begin], "tokens": ["<|im_start|>"]},
                    "E": {"id": "E", "ids": [end], "tokens": ["<|im_end|>"]},
                },
            },
        ],
    }
    file = check_tokenizer(raw, "t")
    assert (file.prefix, file.suffix) == ((begin,), (end,))


def directory(path: Path, config: dict[str, Any] | None, text: str | None = None) -> Path:
    (path / "tokenizer.json").write_text(text or byte_level())
    if config is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def test_a_directory_says_how_its_vocabulary_is_used(tmp_path: Path) -> None:
    config = {
        "bos_token": {"content": "<|im_start|>", "lstrip": False},
        "eos_token": "<|im_end|>",
        "add_bos_token": True,
        "chat_template": [
            {"name": "tool_use", "template": "no"},
            {"name": "default", "template": CHATML},
        ],
    }
    tokenizer = load_tokenizer(directory(tmp_path, config))
    assert tokenizer.encode("the") == [
        tokenizer.special["<|im_start|>"],
        *tokenizer.encode("the", add_special=False),
    ]
    assert tokenizer.settings.template == CHATML
    assert dict(tokenizer.settings.variables)["eos_token"] == "<|im_end|>"
    assert tokenizer.settings.end_ids[0] == tokenizer.special["<|im_end|>"]
    (tmp_path / "chat_template.jinja").write_text("other")
    assert load_tokenizer(tmp_path).settings.template == "other"
    assert tokenizer_files(tmp_path) == (
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    )


def test_files_of_all_kinds_are_found(tmp_path: Path) -> None:
    (tmp_path / "any.model").write_bytes(train_tokenizer())
    (tmp_path / "some.json").write_text(byte_level())
    assert load_tokenizer(tmp_path / "any.model").encode("the fish")
    assert load_tokenizer(str(tmp_path / "some.json")).encode("the fish")
    directory(tmp_path, None)
    (tmp_path / "tokenizer.model").write_bytes(train_tokenizer())
    assert isinstance(load_tokenizer(tmp_path), JsonTokenizer)
    assert tokenizer_files(tmp_path) == ("tokenizer.json",)
    with pytest.raises(ModelNotFoundError):
        load_tokenizer(tmp_path / "none")


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"bos_token": 3}, "bos_token: must be a text"),
        ({"bos_token": "<none>", "add_bos_token": True}, "bos_token: '<none>' is not in"),
        ({"bos_token": "<|im_end|>", "add_bos_token": 1}, "add_bos_token: must be true or false"),
        ({"chat_template": 5}, "chat_template: must be a text or a list"),
        ({"chat_template": [{"name": "default", "template": 5}]}, "chat_template: default"),
        ({"chat_template": "x" * (1 << 19)}, "chat_template: longer than"),
    ],
)
def test_wrong_configurations_are_refused(
    tmp_path: Path, config: dict[str, Any], what: str
) -> None:
    with pytest.raises(ModelFormatError, match=what):
        load_tokenizer(directory(tmp_path, config))


# GGUF


@settings(deadline=None, max_examples=60)
@given(text=TEXT.filter(lambda text: not set(text) & set("\u0301")))
def test_a_gguf_vocabulary_gives_the_ids_of_the_same_tokenizer_json(text: str) -> None:
    raw = json.loads(byte_level())
    raw["normalizer"] = None  # GGUF files have none
    assert gguf_tokenizer().encode(text) == own(json.dumps(raw)).encode(text)


def gguf_tokenizer(**changes: Any) -> Tokenizer:
    return tokenizer_of(byte_level_metadata(**changes), "t.gguf")


def test_gguf_flags_and_ends() -> None:
    tokenizer = gguf_tokenizer(bos_token_id=3, add_bos_token=True, add_eos_token=True)
    end = tokenizer.special["<|im_end|>"]
    assert tokenizer.encode("the") == [3, *tokenizer.encode("the", add_special=False), end]
    assert tokenizer.settings.end_ids[0] == end
    assert gguf_tokenizer(eot_token_id=7).settings.end_ids[:2] == (end, 7)
    assert gguf_tokenizer(pre="llama-bpe", add_bos_token=None).settings.prefix == ()
    begins = gguf_tokenizer(pre="llama-bpe", add_bos_token=None, bos_token_id=5)
    assert begins.settings.prefix == (5,)


def test_an_unknown_rule_for_words_is_said_and_the_default_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        unknown = gguf_tokenizer(pre="tomorrow")
    assert "'tomorrow' is not known" in caplog.text
    text = "don't 12345, the fish!"
    assert unknown.encode(text) == gguf_tokenizer(pre="default").encode(text)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model": "bert"}, "model: 'bert' is not supported; supported: llama, gpt2"),
        ({"model": None}, "model: must be a text"),
        ({"tokens": None}, "tokens: must be a list"),
        ({"tokens": ()}, "tokens: there are 0"),
        ({"tokens": np.arange(3)}, "tokens: must be a list"),
        ({"tokens": ("a" * 5000,), "token_type": None}, "tokens: one is longer"),
        ({"tokens": ("a", "a"), "token_type": None}, "tokens: one occurs twice"),
        ({"token_type": np.zeros(3, np.int32)}, "token_type: must be a list with a number"),
        ({"token_type": np.array([9] * 408, np.int32)}, "token_type"),
        ({"merges": None}, "merges: must be a list"),
        ({"merges": ("ab",)}, r"merges\[0\]: must be two tokens"),
        ({"pre": 4}, "pre: must be a text"),
        ({"eos_token_id": "x"}, "eos_token_id: must be a token id"),
        ({"add_bos_token": 2}, "add_bos_token: must be true or false"),
    ],
)
def test_wrong_gguf_vocabularies_are_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ModelFormatError, match=f"t.gguf: tokenizer.ggml.{what}"):
        gguf_tokenizer(**changes)


@pytest.mark.parametrize(
    ("tokens", "scores", "what"),
    [
        (("<unk>", "", "a"), [0, 0, 0], "empty or holds a NUL"),
        (("<unk>", "a", "a"), [0, 0, 0], "occurs twice"),
        (("<unk>", "b", "a"), [0, float("nan"), 0], "scores: one is not finite"),
        (("<unk>", "b", "a"), [0, 0], "scores: must be a list with a number for each"),
    ],
)
def test_wrong_gguf_sentencepiece_vocabularies_are_refused(
    tokens: tuple[str, ...], scores: list[float], what: str
) -> None:
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array(scores, np.float32),
    }
    with pytest.raises(ModelFormatError, match=what):
        tokenizer_of(metadata, "t.gguf")


# hostile tokenizer.json


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


Edit = Callable[[dict[str, Any]], object]
BROKEN: dict[str, tuple[Edit, str]] = {
    "no model": (lambda d: d.pop("model"), "model: must be an object"),
    "other model": (lambda d: d["model"].update(type="WordPiece"), "model.type: 'WordPiece'"),
    "no vocabulary": (lambda d: d["model"].pop("vocab"), "model.vocab: must be an object"),
    "id twice": (lambda d: d["model"]["vocab"].update(zz=5), "'zz' has the id of"),
    "negative id": (lambda d: d["model"]["vocab"].update(zz=-1), "'zz' has the id -1"),
    "huge id": (lambda d: d["model"]["vocab"].update(zz=1 << 40), "'zz' has the id"),
    "id is true": (lambda d: d["model"]["vocab"].update(zz=True), "'zz' has the id True"),
    "id is text": (lambda d: d["model"]["vocab"].update(zz="1"), "'zz' has the id '1'"),
    "long token": (lambda d: d["model"]["vocab"].update({"z" * 5000: 9999}), "longer than 4096"),
    "merges are text": (lambda d: d["model"].update(merges="a b"), "merges: must be a list"),
    "merge of three": (lambda d: d["model"].update(merges=["a b c"]), r"merges\[0\]"),
    "merge of numbers": (lambda d: d["model"].update(merges=[[1, 2]]), r"merges\[0\]"),
    "merge of unknown": (lambda d: d["model"].update(merges=["zq qz"]), "package refuses it"),
    "suffix": (lambda d: d["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
    "unknown token": (lambda d: d["model"].update(unk_token="zz"), "unk_token: 'zz' is no token"),
    "unknown is number": (lambda d: d["model"].update(unk_token=4), "unk_token: 4 is no token"),
    "fallback": (lambda d: d["model"].update(byte_fallback=3), "byte_fallback must be true"),
    "added is object": (lambda d: d.update(added_tokens={}), "added_tokens: must be a list"),
    "added is text": (lambda d: d["added_tokens"].append("x"), "must be an object"),
    "added without text": (lambda d: d["added_tokens"][0].pop("content"), "content: must be"),
    "added twice": (lambda d: d["added_tokens"].append(d["added_tokens"][0]), "occurs twice"),
    "added is another": (lambda d: d["added_tokens"][0].update(id=7), "differs from model.vocab"),
    "added flag": (lambda d: d["added_tokens"][0].update(lstrip=1), "lstrip must be true"),
    "normalizer": (lambda d: d.update(normalizer={"type": "Evil"}), "normalizer.type: 'Evil'"),
    "normalizer is list": (lambda d: d.update(normalizer=[1]), "normalizer: must be an object"),
    "growth": (
        lambda d: d.update(
            normalizer={
                "type": "Sequence",
                "normalizers": [
                    {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaa"}
                ]
                * 9,
            }
        ),
        "makes texts too long",
    ),
    "steps": (
        lambda d: d.update(pre_tokenizer={"type": "Sequence", "pretokenizers": [split("a")] * 17}),
        "at most 16",
    ),
    "charsmap": (
        lambda d: d.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "QUJD"}),
        "wrong length of the trie",
    ),
    "charsmap is no base64": (
        lambda d: d.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "é"}),
        "not base64",
    ),
    "pattern": (lambda d: d.update(pre_tokenizer=split("(")), "package refuses it"),
    "long pattern": (lambda d: d.update(pre_tokenizer=split("a" * 5000)), "too large"),
    "counting pattern": (
        lambda d: d.update(pre_tokenizer=split("((a{999}){999}){999}")),
        "too large",
    ),
    "behaviour": (
        lambda d: d.update(pre_tokenizer={**split("a"), "behavior": "Eat"}),
        "behavior: must be one of",
    ),
    "no decoder": (lambda d: d.update(decoder=None), "decoder: must be an object"),
    "other decoder": (lambda d: d.update(decoder={"type": "WordPiece"}), "decoder.type"),
    "post": (lambda d: d.update(post_processor={"type": "Bert"}), "post_processor.type"),
    "post without text": (
        lambda d: d.update(post_processor={"type": "TemplateProcessing", "single": []}),
        "must hold the text once",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(name: str) -> None:
    edit, what = BROKEN[name]
    raw = json.loads(byte_level())
    edit(raw)
    with pytest.raises(ModelFormatError, match=what):
        own(json.dumps(raw))


def test_a_file_that_is_too_long_or_no_json_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokenizer.json"
    for data, what in ((b"[]", "no JSON object"), (b"{", "not JSON"), (b'{"a":\xff}', "UTF-8")):
        path.write_bytes(data)
        with pytest.raises(ModelFormatError, match=what):
            load_tokenizer(path)
    path.write_text(byte_level())
    monkeypatch.setattr(json_tokenizer, "MAX_FILE_BYTES", 100)
    with pytest.raises(ModelFormatError, match="longer than 100 bytes"):
        load_tokenizer(path)


def test_a_pattern_that_never_ends_is_given_up() -> None:
    raw = json.loads(byte_level())
    raw["pre_tokenizer"]["pretokenizers"].insert(0, split("(a+)+$|(a|aa)+$"))
    tokenizer = own(json.dumps(raw))
    with pytest.raises(RequestError, match="gave up"):
        tokenizer.encode("a" * 30 + "b")


def test_ids_may_have_gaps_and_tokens_that_nobody_reaches() -> None:
    raw = json.loads(byte_level())
    raw["added_tokens"].append({"id": 9000, "content": "<far>", "special": True})
    tokenizer = own(json.dumps(raw))
    assert tokenizer.size == 9001
    assert tokenizer.encode_marked("<far>") == [9000]
    assert tokenizer.decode([5000]) == ""


def test_steering_tokens_without_a_row_are_forgotten() -> None:
    raw = json.loads(byte_level())
    raw["added_tokens"].append({"id": 9000, "content": "<image>", "special": True})
    tokenizer = own(json.dumps(raw))
    rows = len(raw["model"]["vocab"]) + 20
    assert tokenizer.narrow(rows)
    assert tokenizer.size == rows
    assert "<image>" not in tokenizer.special
    assert tokenizer.encode_marked("<image>") == tokenizer.encode("<image>")
    assert "<|im_end|>" in tokenizer.special
    assert not tokenizer.narrow(100)  # ordinary tokens are beyond it
    assert tokenizer.size == rows


def test_tokens_that_swallow_blanks() -> None:
    tokens = ("<unk>", "<s>", "</s>", "<|end|>", "▁", "a", "▁a", "\n")
    metadata = {
        "general.architecture": "phi3",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": np.array([0, 0, 0, 0, -2, -2, -1, -3], np.float32),
        "tokenizer.ggml.token_type": np.array([2, 3, 3, 3, 1, 1, 1, 1], np.int32),
    }
    end, begin = 3, 1
    phi = tokenizer_of(metadata, "t.gguf")
    assert phi.encode_marked("<|end|>\n a") == [end, 6]
    assert phi.encode_marked("<s>\na")[0:2] == [begin, 4]
    other = tokenizer_of({**metadata, "general.architecture": "llama"}, "t.gguf")
    assert other.encode_marked("<|end|>\na") == [end, 4, 7, 5]
    raw = json.loads(byte_level())
    next(t for t in raw["added_tokens"] if t["content"] == SPECIALS[0])["rstrip"] = True
    ours = own(json.dumps(raw))
    assert ours.encode_marked(" a", after="mark") == ours.encode(" a")
