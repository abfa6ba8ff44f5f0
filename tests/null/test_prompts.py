"""Prompts: the ids of `render`, how many of them stay, and how the text ends."""

import json
from pathlib import Path
from typing import Any

import pytest

from homebox.api.checks import parse
from homebox.errors import RequestError
from homebox.model.chat import chat_format
from homebox.model.chat.template_chat import TemplateChat
from homebox.model.tokenizer.base import Tokenizer
from homebox.model.tokenizer.json_tokenizer import JsonTokenizer
from homebox.model.tokenizer.json_tokenizer_file import check_tokenizer
from homebox.model.tokenizer.load import Settings
from tests.null.answer_cases import TOOLS
from tests.unit.tokenizer_files import CHATML, byte_level, spaced

SYSTEM = {"role": "system", "content": "Be brief. The fish swims."}
CALL = {
    "id": "abcdefgh1",
    "type": "function",
    "function": {"name": "get_time", "arguments": '{"a": [1, 2.50]}'},
}
TALKS: list[list[dict[str, Any]]] = [
    [SYSTEM, {"role": "user", "content": "Hello"}],
    [SYSTEM, {"role": "user", "content": "  über <|im_start|> fish\n"}],
    [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}],
    [
        SYSTEM,
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "12", "tool_call_id": "abcdefgh1", "name": "get_time"},
        {"role": "assistant", "content": "Noon."},
        {"role": "user", "content": "Sure?"},
    ],
    [SYSTEM],
]


def tokenizers(template: str) -> list[Tokenizer]:
    variables = (("bos_token", "<|im_start|>"), ("eos_token", "<|im_end|>"))
    settings = Settings(template=template, variables=variables)
    texts = [byte_level(), *(spaced(scheme) for scheme in ("first", "normalizers"))]
    return [JsonTokenizer(check_tokenizer(json.loads(text), "t"), "t", settings) for text in texts]


def test_ids_are_those_of_render_in_every_template(shared: Path) -> None:
    path = shared / "data/templates/chat_template_cases.json"
    tried = 0
    for case in json.loads(path.read_text(encoding="utf-8")):
        for tokenizer in tokenizers(case["template"]):
            chat = chat_format(tokenizer, None, ())
            for talk in TALKS:
                for tools in (None, TOOLS):
                    try:
                        expected = chat.render(talk, tools=tools)
                    except RequestError:
                        continue  # templates that refuse such a conversation
                    found = chat.prompt(talk, tools=tools)
                    assert found.ids == expected, case["name"]
                    assert chat.prompt(talk, tools=tools) == found  # from what was kept, too
                    assert 0 <= found.stable <= len(found.ids)
                    assert chat.render_text(talk, tools=tools).text.endswith(found.begun)
                    tried += 1
    assert tried > 350


@pytest.mark.parametrize("model", ["Qwen/Qwen3-0.6B", "meta-llama/Llama-3.1-8B-Instruct"])
def test_what_stays_is_the_system_and_the_tools(shared: Path, qwen3: Tokenizer, model: str) -> None:
    cases = json.loads((shared / "data/templates/chat_template_cases.json").read_text())
    template = next(case["template"] for case in cases if case["name"] == model)
    chat = TemplateChat(qwen3, template)
    path = next((shared / "clients/captures/opencode").glob("005*"))
    request = parse(json.dumps(json.loads(path.read_text())["body"]).encode())
    messages, tools = request.rendered_messages(), request.offered_tools
    found = chat.prompt(messages, tools=tools)
    head = qwen3.decode(found.ids[: found.stable], special=True)
    other = chat.prompt([messages[0], {"role": "user", "content": "Hello!"}], tools=tools)
    assert other.stable == found.stable
    assert other.ids[: found.stable] == found.ids[: found.stable]
    assert messages[0]["content"].strip()[-40:] in head
    assert "fruit.txt replace" not in head
    assert '"name": "bash"' in head
    # All but a few tokens of what both begin with.
    both = next(n for n, (a, b) in enumerate(zip(found.ids, other.ids, strict=False)) if a != b)
    assert 7_000 < found.stable <= both < found.stable + 12


def test_what_a_user_writes_does_not_begin_the_answer() -> None:
    for tokenizer in tokenizers("{% for m in messages %}{{ m.content }}{% endfor %}"):
        chat = chat_format(tokenizer, None, ())
        assert chat.prompt([{"role": "user", "content": "a <think>"}]).begun == ""
    for tokenizer in tokenizers(CHATML + "{% if add_generation_prompt %}<think>{% endif %}"):
        chat = chat_format(tokenizer, None, ())
        begun = chat.prompt([{"role": "user", "content": "a </think>"}]).begun
        assert begun == "<|im_end|>\n<|im_start|>assistant\n<think>"


def test_nothing_is_begun_without_a_prompt_for_it() -> None:
    for tokenizer in tokenizers(CHATML):
        chat = chat_format(tokenizer, None, ())
        talk = [{"role": "user", "content": "a"}]
        assert chat.prompt(talk, add_generation_prompt=False).begun == "<|im_end|>\n"


def test_a_model_without_marks_has_a_prompt() -> None:
    raw = json.loads(byte_level())
    raw["added_tokens"] = []
    tokenizer = JsonTokenizer(check_tokenizer(raw, "t"), "t", Settings())
    chat = chat_format(tokenizer, None, ())
    talk = [SYSTEM, {"role": "user", "content": "Hello"}]
    found = chat.prompt(talk)
    assert found.ids == chat.render(talk)
    assert tokenizer.decode(found.ids[: found.stable]) == SYSTEM["content"]
    assert found.begun == ""
