"""A jinja2 environment for chat templates that nobody vouches for.

The one idea: jinja2's immutable sandbox keeps a template away from Python; here it is kept from
growing as well. Loops, calls, operators, literals and output are made to go through a `Budget`, by
rewriting the parsed template; what takes a size as an argument is checked before it runs.
Invariant: a rendering ends after bounded time with bounded memory.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import wraps
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context
from jinja2.visitor import NodeTransformer

from homebox.model.chat.budget import bounded, current, weighed, weight
from homebox.model.chat.said import joined, known, replaced
from homebox.model.chat.said_json import Style, said_json
from homebox.model.chat.written import text_of_value

_MAX_NUMBER = 1 << 20  # of an argument that may be a size
_MAX_PAD = 4096
_MAX_BITS = 256
_PLAIN_PERCENT = re.compile(r"%%|%(?:\(\w*\))?[-+ #0]*\d{0,3}(?:\.\d{0,2})?[sridfgexXo]")
_NO_FILTERS = ("pprint", "urlize", "wordwrap", "xmlattr", "random", "center", "filesizeformat")
_PADDING = ("ljust", "rjust", "center", "zfill", "expandtabs")


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """The environment of chat templates: the helpers that they expect, and bounds."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))
    concat = staticmethod(joined)  # of a macro's or a block's parts

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # no part of a template runs while it is compiled
            finalize=_printed,
            extensions=[_Generation, loopcontrols],
            cache_size=0,
        )
        for name in _NO_FILTERS:
            del self.filters[name]
        for name in ("lipsum", "cycler", "joiner"):
            del self.globals[name]
        self.filters |= {name: _checked(run) for name, run in self.filters.items()}
        self.filters |= {
            "_steps": _steps,
            "_weighed": weighed,
            "_joined": _joined,
            "batch": _checked(_sized(self.filters["batch"])),
            "format": _percent,
            "indent": _indent,
            "join": _checked(_join),
            "replace": _replace,
            "round": _checked(_rounded(self.filters["round"])),
            "slice": _checked(_sized(self.filters["slice"])),
            "sum": _checked(_sum),
            "tojson": _tojson,
        }
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = strftime_now
        self.globals["namespace"] = _Variables

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        rewritten: nodes.Template = _Rewrite().visit(tree)
        return rewritten

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call something that a template named, within its budget."""
        own = isinstance(obj, Macro | BlockReference)
        current().spend(current().literal if own else 0)
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str | bytes):
            given = {k: v for k, v in kwargs.items() if k not in ("_loop_vars", "_block_vars")}
            return weighed(_method(owner, obj, args, given))
        return weighed(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute left operator right if the result is small enough."""
        current().spend(0)
        if operator == "%" and isinstance(left, str):
            return _percent(left, *(right if isinstance(right, tuple) else (right,)))
        if operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            bounded(None, len(left) + len(right))
        if operator == "*":
            _check_product(left, right)
        if operator == "**" and (abs(left) > _MAX_PAD or abs(right) > 64):
            raise SecurityError("the template computes a number that is too large")
        return weighed(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return a version of str.format that takes no widths."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        form = value.__self__
        if re.search(r"\{[^{}]*[:!{]", form):
            raise SecurityError("formats with widths are not allowed in templates")

        def run(*args: Any, **kwargs: Any) -> str:
            bounded(None, weight([*args, *kwargs.values()]) * (1 + form.count("{")))
            return str(_known(wrapped(*args, **kwargs), form, args, kwargs))

        return run


class _Generation(Extension):
    """{% generation %} marks what the assistant said; here it only groups."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Rewrite(NodeTransformer):
    """Leads loops, joins of texts and literals of a template through its budget."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = _filter(node.iter, "_steps", nodes.Const(literal_size(node)))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "_joined")

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, "_weighed")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filter(node, "_weighed")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return node if node.ctx != "load" else _filter(node, "_weighed")


def literal_size(tree: nodes.Node) -> int:
    """Return how many characters of plain text a part of a template holds."""
    return sum(len(node.data) for node in tree.find_all(nodes.TemplateData))


def _filter(node: nodes.Node, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


@pass_context
def _printed(_: Context, value: Any) -> Any:
    return weighed(_text(value) if current().tracked else value)


def _known(result: Any, *values: Any) -> Any:
    """Return a result that knows who said it where the values that it was made of do."""
    return known(result, values) if current().tracked else result


def _steps(items: Iterable[Any], literal: int) -> Iterator[Any]:
    budget = current()
    for item in items:
        budget.spend(literal)
        yield item


def _checked(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter whose numbers are no huge sizes and whose result is weighed."""

    @wraps(run)
    def checked(*args: Any, **kwargs: Any) -> Any:
        current().spend(0)
        for value in (*args, *kwargs.values()):
            if isinstance(value, int) and abs(value) > _MAX_NUMBER and len(args) + len(kwargs) > 1:
                raise SecurityError("the template gives a filter a number that is too large")
        return weighed(_known(run(*args, **kwargs), args, kwargs))

    return checked


def _sized(run: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(run)
    def sized(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(v, int) and v > _MAX_PAD for v in (*args, *kwargs.values())):
            raise SecurityError("the template asks for too many parts")
        return list(run(*args, **kwargs))

    return sized


def _rounded(run: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(run)
    def rounded(value: Any, precision: int = 0, method: str = "common") -> Any:
        if not -16 <= precision <= 16:
            raise SecurityError("the template rounds to too many digits")
        return run(value, precision, method)

    return rounded


def _method(owner: str | bytes, method: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
    """Call a method of a text; what would make a long one is refused first."""
    name = method.__name__
    if isinstance(owner, str) and name == "replace":
        return _replace(owner, *args, **kwargs)
    if isinstance(owner, str) and name == "join" and len(args) == 1:
        return _join(args[0], owner)
    if name in ("format", "format_map", "translate", "join", "maketrans", "to_bytes", "encode"):
        raise SecurityError(f"the method {name} is not allowed in templates")
    if name in _PADDING and any(isinstance(v, int) and v > _MAX_PAD for v in args):
        raise SecurityError("the template pads a text too far")
    return _known(method(*args, **kwargs), owner, args, kwargs)


def _replace(text: Any, old: Any, new: Any, count: Any = None) -> str:
    whole, before, after = _text(text), _text(old), _text(new)
    found = whole.count(before) if before else len(whole) + 1
    bounded(None, len(whole) + found * len(after))
    return replaced(whole, before, after, -1 if count is None else count)


def _join(items: Iterable[Any], separator: Any = "", attribute: Any = None) -> str:
    between = _text(separator)
    total = 0
    texts = []
    for item in items:
        texts.append(_text(item if attribute is None else item[attribute]))
        total += len(texts[-1]) + len(between)
        bounded(None, total)
    return joined(texts, between)


def _joined(items: list[Any]) -> str:
    return str(weighed(_join(items)))


def _sum(items: Iterable[Any], attribute: Any = None, start: Any = 0) -> Any:
    values = [item if attribute is None else item[attribute] for item in items]
    if not all(isinstance(value, int | float) for value in (*values, start)):
        raise SecurityError("templates may only sum numbers")
    return sum(values, start)


def _indent(text: Any, width: Any = 4, first: bool = False, blank: bool = False) -> str:
    text = _text(text)
    space = width if isinstance(width, str) else " " * min(int(width), _MAX_PAD)
    bounded(None, len(text) + (text.count("\n") + 1) * len(space))
    lines = text.splitlines() + ([""] if text.endswith("\n") else [])
    rest = [space + line if line or blank else line for line in lines[1:]]
    start = lines[:1] if not first else [space + line for line in lines[:1]]
    return str(weighed(joined(start + rest, "\n")))


def _percent(form: Any, *args: Any, **kwargs: Any) -> str:
    form = _text(form)
    if "%" in _PLAIN_PERCENT.sub("", form):
        raise SecurityError("this format is not allowed in templates")
    values = kwargs or (args[0] if len(args) == 1 and isinstance(args[0], dict) else args)
    bounded(None, weight(values) * (1 + form.count("%")))
    return str(weighed(_known(form % values, form, values)))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None and (not isinstance(indent, int) or not 0 <= indent <= 16):
        raise SecurityError("the template indents JSON too far")
    bounded(None, weight(value))
    if current().tracked:
        style = Style(bool(ensure_ascii), indent, separators, bool(sort_keys))
        return str(weighed(said_json(value, style)))
    own = text_of_value(value)
    if own is not None:
        return str(weighed(own))
    text = json.dumps(
        value,
        ensure_ascii=bool(ensure_ascii),
        indent=indent,
        separators=separators,
        sort_keys=bool(sort_keys),
    )
    return str(weighed(text))


def strftime_now(form: str) -> str:
    """Return the local time, written as `form` says."""
    return datetime.now().strftime(bounded(_text(form), 64 * len(form)))


def _raise(message: Any) -> None:
    raise TemplateError(_text(message)[:500])


class _Variables(Namespace):
    """A namespace whose names cannot reach into Python."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"templates may not set {name!r}")
        super().__setitem__(name, value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    bounded(None, weight(value))
    return str(_known(str(value), value))


def _check_product(left: Any, right: Any) -> None:
    if hasattr(left, "__len__") or hasattr(right, "__len__"):
        sequence, count = (left, right) if hasattr(left, "__len__") else (right, left)
        if isinstance(count, int):
            bounded(None, len(sequence) * max(count, 0))
    elif (
        isinstance(left, int)
        and isinstance(right, int)
        and left.bit_length() + right.bit_length() > _MAX_BITS
    ):
        raise SecurityError("the template computes a number that is too large")
