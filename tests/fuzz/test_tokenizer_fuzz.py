"""Vocabularies, their settings and chat templates that make no sense: refused, or usable.

Seeded: the same cases in every run. `pytest -m whole tests/fuzz` runs many more.
"""

import copy
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox.errors import ModelFormatError, RequestError
from homebox.model.chat.template import render_template
from homebox.model.files.json_file import parse_json_object
from homebox.model.tokenizer.gguf_vocabulary import tokenizer_of
from homebox.model.tokenizer.json_tokenizer import JsonTokenizer
from homebox.model.tokenizer.json_tokenizer_file import check_tokenizer
from homebox.model.tokenizer.load import Tokenizer, load_tokenizer
from tests.unit.tokenizer_files import CHATML, byte_level, byte_level_metadata, spaced

COUNT, WHOLE = 1500, 100_000
TEMPLATES, WHOLE_TEMPLATES = 200, 20_000
LIMIT = 0.05  # seconds of this thread for a case

ODD: list[Any] = [None, True, False, -1, 0, 1, 3, 1 << 20, 1 << 64, 0.5, float("nan"), "", "a"]
ODD += ["\ud800", "\0", "x" * 5000, "▁", "<0x41>", "(", "(a+)+$", "[", "\\p{X}", "a{99999}"]
ODD += [[], {}, [1], [[]], ["a", "b"], [["a", "b"]], {"a": 1}, {"Regex": "("}, {"String": ""}]
ODD += [{"type": kind} for kind in ("Sequence", "NFC", "Precompiled", "Replace", "Split", "Evil")]
ODD += [{"type": kind} for kind in ("ByteLevel", "Metaspace", "BPE", "Unigram", "Digits")]
ODD += [{"type": "Replace", "pattern": {"Regex": ""}, "content": "aa"}, "BPE", "Unigram", "Fuse"]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each container of a JSON value with each of its keys; of long ones a few."""
    if isinstance(value, dict):
        keys: list[Any] = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    else:
        return
    for key in keys if len(keys) < 40 else keys[:: len(keys) // 20]:
        yield value, key
        yield from places(value[key])


def damaged(dice: random.Random, raw: dict[str, Any]) -> dict[str, Any]:
    raw = copy.deepcopy(raw)
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        found = list(places(raw))
        if not found:
            return raw
        place, key = dice.choice(found)
        kind = dice.randrange(4)
        if kind == 0:
            del place[key]
        elif kind == 1 and isinstance(place, dict):
            place[dice.choice(["zz", "type", "id", "", "\ud800", "<|im_end|>"])] = place[key]
        elif kind == 2:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            place[key] = copy.deepcopy(place[dice.choice(keys)])
        else:
            place[key] = copy.deepcopy(dice.choice(ODD))
    return raw


def unigram() -> dict[str, Any]:
    raw = json.loads(spaced())
    texts = ["<unk>", *(f"<0x{value:02X}>" for value in range(256)), "▁the", "fish", "▁", "t"]
    raw["model"] = {
        "type": "Unigram",
        "unk_id": 0,
        "byte_fallback": True,
        "vocab": [[text, -float(number)] for number, text in enumerate(texts)],
    }
    raw["added_tokens"] = [{"id": len(texts), "content": "<|im_end|>", "special": True}]
    return raw


def used(tokenizer: Tokenizer) -> None:
    for text in ("the fish\n\n日本", "<|im_end|>a", ""):
        try:
            ids = tokenizer.encode(text)
            ids += tokenizer.encode_marked(text) + tokenizer.encode_answer(text)
        except RequestError:
            continue
        assert all(0 <= index < tokenizer.size for index in ids)
        tokenizer.decode(ids)


def tried(make: Callable[[], Tokenizer]) -> bool:
    """Make and use a tokenizer; return whether it was accepted."""
    begin = time.thread_time()
    try:
        tokenizer = make()
        used(tokenizer)
    except ModelFormatError:
        return False
    finally:
        spent = time.thread_time() - begin
    assert spent < LIMIT
    return True


def run(count: int) -> None:
    dice = random.Random(11)
    sources = [json.loads(byte_level()), json.loads(spaced()), unigram()]
    taken = 0
    for number in range(count):
        raw = damaged(dice, sources[number % 3])

        def make(raw: dict[str, Any] = raw) -> Tokenizer:
            data = json.dumps(raw).encode()
            return JsonTokenizer(check_tokenizer(parse_json_object(data, "t"), "t"), "t")

        taken += tried(make)
    assert count // 20 < taken < count * 19 // 20


def test_damaged_tokenizers_are_refused_or_usable() -> None:
    run(COUNT)


@pytest.mark.whole
def test_many_damaged_tokenizers_are_refused_or_usable() -> None:
    run(WHOLE)


def test_damaged_gguf_vocabularies_are_refused_or_usable() -> None:
    dice = random.Random(12)
    good = byte_level_metadata(bos_token_id=1)
    spm = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ("<unk>", "<s>", "</s>", "▁the", "a", "t", "h", "e", "▁"),
        "tokenizer.ggml.scores": np.zeros(9, np.float32),
        "tokenizer.ggml.token_type": np.array([2, 3, 3, 1, 1, 1, 1, 1, 1], np.int32),
    }
    odd = [*ODD, "llama", "gpt2", (), ("a",), ("a", "b") * 5, np.zeros(9, np.float32), np.arange(9)]
    odd += [np.full(9, np.nan, np.float32), np.zeros((3, 3)), np.array([7] * 9), ("",) * 9]
    keys = sorted({*good, *spm, "tokenizer.chat_template", "tokenizer.ggml.add_space_prefix"})
    taken = 0
    for number in range(COUNT // 2):
        metadata: dict[str, Any] = dict(spm if number % 2 else good)
        for _ in range(dice.choice([1, 1, 2])):
            if dice.random() < 0.2:
                metadata.pop(dice.choice(keys), None)
            else:
                metadata[dice.choice(keys)] = dice.choice(odd)
        taken += tried(lambda metadata=metadata: tokenizer_of(metadata, "t.gguf"))  # type: ignore[misc]
    assert COUNT // 40 < taken < COUNT // 2 - COUNT // 40


def test_damaged_settings_are_refused_or_usable(tmp_path: Path) -> None:
    dice = random.Random(13)
    good = {
        "bos_token": {"content": "<|im_start|>"},
        "eos_token": "<|im_end|>",
        "add_bos_token": True,
        "add_eos_token": False,
        "chat_template": [{"name": "default", "template": CHATML}],
    }
    (tmp_path / "tokenizer.json").write_text(byte_level())
    taken = 0
    for _ in range(COUNT // 5):
        raw = damaged(dice, good)
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(raw))
        taken += tried(lambda: load_tokenizer(tmp_path))
    assert COUNT // 50 < taken < COUNT // 5 - COUNT // 50


def render_all(shared: Path, count: int) -> None:
    cases = json.loads((shared / "data/templates/chat_template_cases.json").read_text())
    dice = random.Random(14)
    pieces = [piece for case in cases for piece in case["template"].replace("{", "\0{").split("\0")]
    rendered = 0
    for number in range(count):
        case = cases[number % len(cases)]
        parts = case["template"].replace("{", "\0{").split("\0")
        for _ in range(dice.choice([0, 1, 1, 2, 4])):
            spot = dice.randrange(len(parts))
            kind = dice.randrange(3)
            parts[spot : spot + (kind > 0)] = [dice.choice(pieces)] * dice.choice([0, 1, 2, 30])
            parts = parts or [""]
        data = damaged(dice, case["data"]) if dice.random() < 0.5 else case["data"]
        variables = {key: value for key, value in data.items() if key.isidentifier()}
        try:
            assert isinstance(render_template("".join(parts), **variables), str)
        except (ModelFormatError, RequestError):
            continue
        rendered += 1
    assert count // 10 < rendered < count


def test_damaged_templates_fail_in_one_way(shared: Path) -> None:
    render_all(shared, TEMPLATES)


@pytest.mark.whole
def test_many_damaged_templates_fail_in_one_way(shared: Path) -> None:
    render_all(shared, WHOLE_TEMPLATES)
