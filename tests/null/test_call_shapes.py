"""Templates that want calls, thoughts and tools in their own ways get them so."""

import json
from pathlib import Path
from typing import Any

import pytest

from homebox.errors import ModelFormatError
from homebox.model.chat.call_shape import CallShape
from homebox.model.chat.template_chat import TemplateChat
from homebox.model.tokenizer import load_tokenizer
from homebox.model.tokenizer.gguf_vocabulary import tokenizer_of
from homebox.model.tokenizer.json_tokenizer import JsonTokenizer
from homebox.model.tokenizer.json_tokenizer_file import check_tokenizer
from homebox.model.tokenizer.load import Settings
from tests.unit.tokenizer_files import byte_level, byte_level_metadata

TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "a"},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "hm",
        "tool_calls": [{"id": "1", "function": {"name": "look", "arguments": '{"at":"sea"}'}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": "b"},
]
LOOK = {"type": "function", "function": {"name": "look"}}


def chat_with(template: str, tools: str | None = None) -> TemplateChat:
    file = check_tokenizer(json.loads(byte_level()), "t.json")
    tokenizer = JsonTokenizer(file, "t.json", Settings(template=template, tool_template=tools))
    return TemplateChat(tokenizer, template)


def each(part: str) -> str:
    return "{% for m in messages %}{{ m.role }}:" + part + ";{% endfor %}"


CALLS = "{% for c in m.tool_calls or [] %}{{ c.function.name }}#{% endfor %}"


@pytest.mark.parametrize(
    ("part", "shape", "text"),
    [
        (
            CALLS.replace("#", "{{ c.function.arguments | tojson }}"),
            (False, False),
            'look{"at": "sea"}',
        ),
        (CALLS.replace("#", "{{ c.function.arguments }}"), (True, False), 'look{"at": "sea"}'),
        (
            CALLS.replace("#", "{{ ' ' + c.function.arguments }}"),
            (True, False),
            'look {"at": "sea"}',
        ),
        (
            CALLS.replace(
                "#", "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}"
            ),
            (False, False),
            "lookat=sea",
        ),
        (
            CALLS.replace(
                "#",
                "{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}"
                "{{ c.function.arguments | tojson }}{% endif %}",
            ),
            (False, False),
            'look{"at": "sea"}',
        ),
        (
            "{% if m.content is none %}"
            + CALLS.replace("#", "{{ c.function.arguments }}")
            + "{% else %}{{ m.content }}{% endif %}",
            (True, True),
            'look{"at": "sea"}',
        ),
        ("{{ m.content }}{% if m.tool_calls %}?{% endif %}", (False, False), "?"),
    ],
)
def test_calls_are_given_as_the_template_wants_them(
    part: str, shape: tuple[bool, bool], text: str
) -> None:
    chat = chat_with(each(part))
    assert chat._messages.shape == CallShape(*shape)
    rendered = chat.render_text(TALK, False)
    assert f"assistant:{text};" in rendered.text
    assert rendered.text.endswith("tool:b;" if "content }}" in part else "tool:;")
    assert chat.encode(rendered) == chat.render(TALK, False)
    chat.render_training(TALK)


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("{{ m.reasoning_content }}{{ m.tool_calls | length }}", "hm1"),
        ("{{ m.thinking }}{{ m.tool_calls | length }}", "hm1"),
        ("{{ m['reasoning'] }}{{ m.tool_calls | length }}", "hm1"),
        ("{{ m | length }}{{ m.tool_calls | length }}{{ enable_thinking }}", "31"),
    ],
)
def test_thoughts_are_called_what_the_template_calls_them(part: str, text: str) -> None:
    chat = chat_with(each(part))
    found, spans = chat.render_text(TALK[:2], False)
    assert f"assistant:{text};" in found
    thoughts = [found[s.start : s.end] for s in spans if s.provenance == "assistant"]
    assert "".join(thoughts) == ("hm" if "hm" in text else "")


def test_some_models_have_another_template_for_tools() -> None:
    plain = each("{{ m.content }}")
    offering = "{% for t in tools %}{{ t.function.name }}!{% endfor %}{{ mood }}" + each(
        "{{ m.content }}" + CALLS.replace("#", "{{ c.function.arguments }}")
    )
    chat = chat_with(plain, offering)
    talk = [TALK[0]]
    assert chat.render_text(talk, False).text == "user:a;"
    found = chat.render_text(talk, False, [LOOK], mood="glad")
    assert found.text == "look!gladuser:a;"
    assert chat.encode(found) == chat.render(talk, False, [LOOK], mood="glad")
    assert 'assistant:look{"at": "sea"};' in chat.render_text(TALK, False, [LOOK]).text
    with pytest.raises(ModelFormatError, match="cannot be parsed"):
        chat_with(plain, "{% for %}")


def test_both_templates_are_found_in_files(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(byte_level())
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    found = load_tokenizer(tmp_path).settings
    assert (found.template, found.tool_template) == ("D", "T")
    named[0]["template"] = 3  # type: ignore[assignment]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    with pytest.raises(ModelFormatError, match="chat_template: tool_use: must be a text"):
        load_tokenizer(tmp_path)
    metadata = byte_level_metadata() | {
        "tokenizer.chat_template": "D",
        "tokenizer.chat_template.tool_use": "T",
    }
    found = tokenizer_of(metadata, "t.gguf").settings
    assert (found.template, found.tool_template) == ("D", "T")
