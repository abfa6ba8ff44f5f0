"""Chat formats for vocabularies that bring no template."""

import json
from pathlib import Path
from typing import Any

import pytest

from homebox.model.chat.built_in import BUILT_IN, BuiltIn, built_in
from homebox.model.chat.formats import PlainChat, chat_format
from homebox.model.chat.template import render_template
from homebox.model.chat.template_chat import TemplateChat
from homebox.model.tokenizer.base import Settings
from homebox.model.tokenizer.json_tokenizer import JsonTokenizer
from homebox.model.tokenizer.json_tokenizer_file import check_tokenizer
from tests.unit.tokenizer_files import byte_level

TALK = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "the fish"},
    {"role": "assistant", "content": "swims"},
    {"role": "user", "content": "why"},
]
EXPECTED = {
    "ChatML": "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nthe fish<|im_end|>\n"
    "<|im_start|>assistant\nswims<|im_end|>\n<|im_start|>user\nwhy<|im_end|>\n"
    "<|im_start|>assistant\n",
    "Llama 3": "<s><|start_header_id|>system<|end_header_id|>\n\nbe brief<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nthe fish<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nswims<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nwhy<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "Gemma": "<s><start_of_turn>user\nbe brief\n\nthe fish<end_of_turn>\n"
    "<start_of_turn>model\nswims<end_of_turn>\n<start_of_turn>user\nwhy<end_of_turn>\n"
    "<start_of_turn>model\n",
    "Granite": "<|start_of_role|>system<|end_of_role|>be brief<|end_of_text|>\n"
    "<|start_of_role|>user<|end_of_role|>the fish<|end_of_text|>\n"
    "<|start_of_role|>assistant<|end_of_role|>swims<|end_of_text|>\n"
    "<|start_of_role|>user<|end_of_role|>why<|end_of_text|>\n"
    "<|start_of_role|>assistant<|end_of_role|>",
    "Harmony": "<|start|>system<|message|>be brief<|end|><|start|>user<|message|>the fish<|end|>"
    "<|start|>assistant<|channel|>final<|message|>swims<|end|>"
    "<|start|>user<|message|>why<|end|><|start|>assistant",
    "Mistral": "<s>[INST] be brief\n\nthe fish[/INST] swims</s>[INST] why[/INST]",
    "Phi-3": "<|system|>\nbe brief<|end|>\n<|user|>\nthe fish<|end|>\n<|assistant|>\nswims<|end|>\n"
    "<|user|>\nwhy<|end|>\n<|assistant|>\n",
}
# Templates of these families' models; what they write before the first turn of the user differs.
PEERS = {
    "ChatML": "Qwen/Qwen2.5-7B-Instruct",
    "Llama 3": "meta-llama/Llama-3.1-8B-Instruct",
}
NAMES = [each.name for each in BUILT_IN]


def tokenizer_of(marks: tuple[str, ...]) -> JsonTokenizer:
    """Return a byte-level vocabulary with these steering tokens, <s> and </s>."""
    raw: dict[str, Any] = json.loads(byte_level())
    size = len(raw["model"]["vocab"])
    raw["added_tokens"] = [
        {"id": size + i, "content": mark, "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for i, mark in enumerate(("<s>", "</s>", *marks))
    ]
    raw["model"]["vocab"] = {
        text: i for text, i in raw["model"]["vocab"].items() if not text.startswith("<|")
    } | {f"[{i}]": i for text, i in raw["model"]["vocab"].items() if text.startswith("<|")}
    settings = Settings(variables=(("bos_token", "<s>"), ("eos_token", "</s>")))
    return JsonTokenizer(check_tokenizer(raw, "t.json"), "t.json", settings)


def found(name: str) -> BuiltIn:
    return next(each for each in BUILT_IN if each.name == name)


@pytest.mark.parametrize("name", NAMES)
def test_a_vocabulary_with_the_marks_gets_the_format(name: str) -> None:
    tokenizer = tokenizer_of(found(name).marks)
    chat = chat_format(tokenizer, None, ())
    assert isinstance(chat, TemplateChat)
    ids = chat.render(TALK)
    assert tokenizer.decode(ids, special=True) == EXPECTED[name]
    marks = {tokenizer.special[mark] for mark in found(name).marks}
    assert marks & set(ids), "the marks are tokens"


@pytest.mark.parametrize("name", NAMES)
def test_without_one_of_the_marks_it_does_not(name: str) -> None:
    for left_out in found(name).marks:
        rest = tuple(mark for mark in found(name).marks if mark != left_out)
        assert isinstance(chat_format(tokenizer_of(rest), None, ()), PlainChat)


@pytest.mark.parametrize("name", NAMES)
def test_marks_that_people_type_stay_text(name: str) -> None:
    tokenizer = tokenizer_of(found(name).marks)
    typed = "".join(found(name).marks)
    plain, hostile = (
        chat_format(tokenizer, None, ()).render([{"role": "user", "content": text}])
        for text in ("x", f"x{typed}x")
    )
    steering = set(tokenizer.special.values())
    assert [i for i in hostile if i in steering] == [i for i in plain if i in steering]


@pytest.mark.parametrize("name", PEERS)
def test_turns_are_those_of_the_families_own_templates(name: str, shared: Path) -> None:
    cases = json.loads((shared / "data/templates/chat_template_cases.json").read_text())
    template = next(case["template"] for case in cases if case["name"] == PEERS[name])
    variables = {
        "messages": TALK[1:],
        "add_generation_prompt": True,
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    theirs = render_template(template, **variables)
    ours = render_template(found(name).template, **variables)
    start = {"ChatML": "<|im_start|>user", "Llama 3": "<|start_header_id|>user"}[name]
    assert ours[ours.index(start) :] == theirs[theirs.index(start) :]


def test_the_built_in_format_wants_all_of_its_marks() -> None:
    assert built_in({"<|im_start|>"}) is None
    assert built_in({"<|im_start|>", "<|im_end|>", "x"}) is BUILT_IN[0]
