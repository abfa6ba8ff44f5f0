"""Chat templates: the texts of other programs, and templates that mean harm."""

import json
from pathlib import Path
from typing import Any

import pytest

from homebox.errors import ModelFormatError, RequestError
from homebox.model.chat import budget as template_budget
from homebox.model.chat import sandbox as template_sandbox
from homebox.model.chat.formats import render_template
from homebox.model.chat.said import said
from homebox.model.chat.template import ChatTemplate

TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "<b> & é"}]


def test_texts_of_another_implementation(shared: Path) -> None:
    cases = json.loads((shared / "data/templates/chat_template_cases.json").read_text())
    assert len(cases) >= 26
    for case in cases:
        assert render_template(case["template"], **case["data"]) == case["target"], case["name"]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ messages | tojson }}", json.dumps(TALK, ensure_ascii=False)),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{{ 'é' | tojson(ensure_ascii=True) }}", '"\\u00e9"'),
        ("{% for m in [1, 2] %}{% if loop.last %}{% break %}{% endif %}{{ m }}{% endfor %}", "1"),
        ("{% for m in messages %}{{ loop.index }}{{ loop.length }}{% endfor %}", "1222"),
        ("{% generation %}{{ messages[1].content }}{% endgeneration %}", "<b> & é"),
        ("{% set ns = namespace(n=0) %}{% set ns.n = ns.n + 1 %}{{ ns.n }}", "1"),
        ("{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f('a') ~ f(1) }}", "[a][1]"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{{ messages[0]['content'].strip().replace('h', 'j').upper() }}", "JI"),
        ("{{ 'a,b'.split(',') | join('-') }}{{ missing }}{{ missing is defined }}", "a-bFalse"),
        ("{{ '%s is %d' % ('a', 3) }}{{ '{} {}'.format(1, 2) }}", "a is 31 2"),
        ("{{ messages | map(attribute='role') | list }}", "['user', 'assistant']"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        ("{{ (messages | last).content[::-1] }}{{ [1, 2] + [3] }}", "é & >b<[1, 2, 3]"),
        ("{{ 'a\nb' | indent(2, true) }}{{ 'x' | replace('x', 'yy') }}", "  a\n  byy"),
        ("{{ dict(a=[2]).items() | list }}{{ range(3) | list }}", "[('a', [2])][0, 1, 2]"),
        ("{{ strftime_now('%Y') | int > 2000 }}", "True"),
    ],
)
def test_helpers(template: str, text: str) -> None:
    assert render_template(template, messages=TALK) == text


def test_a_template_says_why_it_refuses() -> None:
    with pytest.raises(RequestError, match="Only user and assistant roles") as caught:
        render_template("{{ raise_exception('Only user and assistant roles!') }}")
    assert caught.value.status == 400
    assert caught.value.param == "messages"
    with pytest.raises(RequestError, match="fails on these messages"):
        render_template("{{ messages[0]['content'] + 1 }}", messages=TALK)


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ ",
        "{% include 'x' %}{% endfor %}",
        "{{ x | nofilter }}",
        "a" * (1 << 19),
        "{{ " + "(" * 5000,
        "{% if a %}" * 3000,
    ],
    ids=["for", "open", "end", "filter", "long", "nested", "deep"],
)
def test_what_is_no_template_is_refused(template: str) -> None:
    with pytest.raises(ModelFormatError):
        render_template(template)


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__ }}{{ messages.__init__.__globals__['os'] }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ self.__init__.__globals__ }}{{ self._TemplateReference__context.environment.x.y }}",
    "{{ namespace.__init__.__globals__['x'] }}",
    "{{ raise_exception.__globals__['json'] }}{{ raise_exception.__code__.co_code }}",
    "{{ strftime_now.__globals__['datetime'].x }}",
    "{{ (messages|attr('__class__')).mro() }}",
    "{{ messages|map(attribute='__class__')|list|first|attr('mro')() }}",
    "{{ '{0.__class__.__mro__}'.format(1).x.y }}{{ '{0.__globals__}'.format(strftime_now).x.y }}",
    "{{ ''|attr('format')('x').__class__.x.y }}{{ ().__class__.__bases__[0].__subclasses__() }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(a=1) }}",
    "{% include '/etc/passwd' %}",
    "{% extends '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('id') }}",
    "{% from 'os' import system %}",
    "{{ joiner.__init__.__globals__.os.x }}",
    "{{ dict.__subclasses__() }}{{ dict.mro().x }}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns.__class__.__init__.__globals__.x }}",
    "{{ [].__reduce_ex__(2)[0].__globals__ }}",
    "{{ (1).__class__.__base__.__subclasses__()[0]('x') }}",
    "{{ messages[0].content._runs }}{{ messages[0].content._parts.__globals__.x.y }}",
    "{{ messages[0].content.strip.__func__.__globals__['operator'].x }}",
    "{{ (messages[0].content | attr('_runs')) }}{{ messages[0].content['_runs'].x.y }}",
    "{{ loop.__class__.x() }}{{ caller.__globals__.x }}{{ environment.x.y() }}",
]


def doubled(step: str, start: str = "'aa'", shown: str = "ns.x", before: str = "") -> str:
    """Return a template that makes a value twice as large, 60 times."""
    begin = f"{{% set ns = namespace(x={start}) %}}{{% for i in range(60) %}}{before}"
    return f"{begin}{{% set ns.x = {step} %}}{{% endfor %}}{{{{ {shown} }}}}"


GROWTH = [
    "{{ 'a' * 10**9 }}",
    "{{ 10**9 * 'a' }}",
    "{{ ['a'] * 10**9 }}",
    "{{ 10 ** 10 ** 10 }}",
    "{{ 9999 ** 9999 }}",
    doubled("ns.x * ns.x", start="9"),
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}",
    "{% for i in range(10**9) %}x{% endfor %}",
    doubled("ns.x ~ ns.x"),
    doubled("ns.x + ns.x"),
    doubled("[ns.x, ns.x]"),
    doubled("{'a': ns.x, 'b': ns.x}", start="1", shown="ns.x | tojson"),
    doubled("(ns.x, ns.x)", start="1", shown="ns.x == ns.x"),
    doubled("dict(a=ns.x, b=ns.x)", start="1"),
    doubled("ns.x + ns.x", start="[1]"),
    doubled("ns.x.replace('a', 'aa')"),
    doubled("ns.x | replace('a', 'aa')"),
    doubled("[ns.x, ns.x] | join"),
    doubled("''.join([ns.x, ns.x])"),
    doubled("'%s%s' % (ns.x, ns.x)"),
    doubled("'{0}{0}'.format(ns.x)"),
    doubled("'%s%s' | format(ns.x, ns.x)"),
    doubled("b", before="{% set b %}{{ ns.x }}{{ ns.x }}{% endset %}"),
    "{{ 'a'.ljust(10**10) }}",
    "{{ 'a'.zfill(10**10) }}",
    "{{ 'a' | center(10**10) }}",
    "{{ 'a' | indent(10**10) }}{{ ('a\\n' * 5000) | indent(4000) }}",
    "{{ '%10000000000d' % 1 }}",
    "{{ '%10000000000d' | format(1) }}",
    "{{ '{:10000000000}'.format(1) }}",
    "{{ '{:{}}'.format('a', '10000000000') }}",
    "{{ [1] | tojson(indent=10**9) }}",
    "{{ [1] | batch(10**10, 'x') | list }}",
    "{{ range(9) | slice(10**10) | list }}",
    "{{ 1.5 | round(10**9, 'ceil') }}",
    "{{ lipsum(n=10**9) }}",
    "{{ [[1]] * 50 | sum(start=[]) }}{{ [[1], [2]] | sum(start=[]) }}",
    "{{ 'x' | wordwrap(1, wrapstring='y' * 10**9) }}",
    "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "{% macro f(n) %}{% if n < 30 %}{{ f(n + 1) }}{{ f(n + 1) }}{% endif %}{% endmacro %}"
    "{{ f(0) }}",
    "{% macro f() %}" + "x" * 9000 + "{% endmacro %}"
    "{% for i in range(99999) %}{% set y = f() %}{% endfor %}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    "{% for i in range(99999) %}{% set x %}{{ 'y' * 90000 }}{% endset %}{% endfor %}",
    "{% for x in [[1]] recursive %}{{ loop([[1], [1]]) }}{% endfor %}",
    "{{ ('a' * 4000000) | list | map('upper') | list | tojson | length }}{{ 'b' * 9000000 }}",
    "{{ strftime_now('%Y' * 9000000) }}",
    "{{ ''.join(messages[0].content for x in messages) }}",
]


@pytest.fixture
def short_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_budget, "MAX_SECONDS", 0.5)


@pytest.mark.usefixtures("short_time")
@pytest.mark.parametrize("template", ESCAPES + GROWTH)
def test_hostile_templates_neither_run_nor_hang(template: str) -> None:
    messages = [dict(message) for message in TALK]
    try:
        text = render_template(template, messages=messages)
    except (RequestError, ModelFormatError):
        text = ""
    assert "uid=" not in text
    assert "root:" not in text
    assert "class '" not in text
    assert "subclasses" not in text
    assert len(text) < 1 << 20
    assert messages == TALK


@pytest.mark.usefixtures("short_time")
@pytest.mark.parametrize("template", ESCAPES)
def test_texts_that_know_who_said_them_are_no_way_out(template: str) -> None:
    messages = [said(message, ("owner", 0, "content")) for message in TALK]
    try:
        text = ChatTemplate(template).render(True, messages=messages)
    except (RequestError, ModelFormatError):
        text = ""
    assert "class '" not in text
    assert "subclasses" not in text
    assert "uid=" not in text


@pytest.mark.usefixtures("short_time")
@pytest.mark.parametrize("template", GROWTH[:35])
def test_growing_templates_are_stopped_not_finished(template: str) -> None:
    with pytest.raises((RequestError, ModelFormatError)):
        render_template(template, messages=TALK)


def test_control_without_the_bounds_templates_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    template = (
        "{% set ns = namespace(x='aa') %}{% for i in range(23) %}"
        "{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x | length }}"
    )
    with pytest.raises(RequestError, match="too"):
        render_template(template)

    def free(value: Any, size: int) -> Any:
        return value

    for module in (template_budget, template_sandbox):
        monkeypatch.setattr(module, "bounded", free)
    monkeypatch.setattr(template_budget, "MAX_SPENT", 1 << 40)
    assert render_template(template) == str(2 << 23)
