"""Chat templates of our own for families whose files bring none, found by their steering tokens.

The one idea: whoever trained a vocabulary with the marks of turns trained the model to use them, so
the marks say which format it is. Invariant: a template uses no mark that is not among those which
chose it; bos_token and eos_token are the vocabulary's own, if it has any.
Sources: the formats as the models' makers document them (ChatML; Llama 3; Gemma; Mistral v3;
Granite 3; OpenAI Harmony; Phi-3).
"""

from collections.abc import Container
from dataclasses import dataclass

_EACH = "{% for message in messages %}"
_DONE = "{% endfor %}"
_ANSWER = "{% if add_generation_prompt %}"
_BEGIN = "{{ bos_token | default('') }}"
# For formats without a turn of the system: its words begin the first turn of the user.
_SYSTEM_FIRST = (
    "{% set ns = namespace(system='') %}" + _EACH + "{% if message.role == 'system' %}"
    "{% set ns.system = ns.system ~ message.content ~ '\n\n' %}{% else %}"
)
_SYSTEM_DONE = "{% if message.role == 'user' %}{{ ns.system }}{% set ns.system = '' %}{% endif %}"


@dataclass(frozen=True)
class BuiltIn:
    """A format: the steering tokens that it needs, and its template."""

    name: str
    marks: tuple[str, ...]
    template: str


CHATML = BuiltIn(
    "ChatML",
    ("<|im_start|>", "<|im_end|>"),
    _EACH
    + "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    + _DONE
    + _ANSWER
    + "<|im_start|>assistant\n{% endif %}",
)
_LLAMA3 = BuiltIn(
    "Llama 3",
    ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    _BEGIN
    + _EACH
    + "<|start_header_id|>{{ 'ipython' if message.role == 'tool' else message.role }}"
    + "<|end_header_id|>\n\n{{ message.content | trim }}<|eot_id|>"
    + _DONE
    + _ANSWER
    + "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
)
_GEMMA = BuiltIn(
    "Gemma",
    ("<start_of_turn>", "<end_of_turn>"),
    _BEGIN
    + _SYSTEM_FIRST
    + "<start_of_turn>{{ 'model' if message.role == 'assistant' else 'user' }}\n"
    + _SYSTEM_DONE
    + "{{ message.content | trim }}<end_of_turn>\n{% endif %}"
    + _DONE
    + _ANSWER
    + "<start_of_turn>model\n{% endif %}",
)
_GRANITE = BuiltIn(
    "Granite",
    ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
    _EACH
    + "<|start_of_role|>{{ message.role }}<|end_of_role|>{{ message.content }}<|end_of_text|>\n"
    + _DONE
    + _ANSWER
    + "<|start_of_role|>assistant<|end_of_role|>{% endif %}",
)
_HARMONY = BuiltIn(
    "Harmony",
    ("<|start|>", "<|message|>", "<|end|>", "<|channel|>"),
    _EACH
    + "<|start|>{{ message.role }}{% if message.role == 'assistant' %}<|channel|>final{% endif %}"
    + "<|message|>{{ message.content }}<|end|>"
    + _DONE
    + _ANSWER
    + "<|start|>assistant{% endif %}",
)
_MISTRAL = BuiltIn(
    "Mistral",
    ("[INST]", "[/INST]"),
    _BEGIN
    + _SYSTEM_FIRST
    + "{% if message.role == 'assistant' %} {{ message.content }}{{ eos_token | default('') }}"
    + "{% else %}[INST] "
    + _SYSTEM_DONE
    + "{{ message.content }}[/INST]{% endif %}{% endif %}"
    + _DONE,
)
_PHI3 = BuiltIn(
    "Phi-3",
    ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    _EACH
    + "<|{{ 'user' if message.role == 'tool' else message.role }}|>\n{{ message.content }}<|end|>\n"
    + _DONE
    + _ANSWER
    + "<|assistant|>\n{% endif %}",
)
BUILT_IN = (CHATML, _LLAMA3, _GEMMA, _GRANITE, _HARMONY, _MISTRAL, _PHI3)


def built_in(steering: Container[str]) -> BuiltIn | None:
    """Return the format whose marks are all among a vocabulary's steering tokens, or None."""
    for format_ in BUILT_IN:
        if all(mark in steering for mark in format_.marks):
            return format_
    return None
