"""Makes the guide of an answer from what is wanted of it, or says what cannot be honoured.

The one idea: everything that may be refused is refused here, before the answer begins; what takes
long is kept by its text for the next request. Invariant: may be called from any thread.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from homebox.errors import RequestError
from homebox.model.answers import dialect_of
from homebox.model.answers.section_formats import CHANNEL, MESSAGE, START
from homebox.model.generation.guide import Bits, Guide
from homebox.model.guides.calls import Calls
from homebox.model.guides.compiler import matcher_of
from homebox.model.guides.forms import is_json, param_of, rules_of
from homebox.model.guides.guide import AnswerGuide, Plan
from homebox.model.guides.json_guard import tokens_of
from homebox.model.guides.segment import Segment
from homebox.model.guides.thinking import Budget
from homebox.model.guides.tools import offered
from homebox.model.guides.vocabulary import Vocabulary, vocabulary_of
from homebox.model.guides.wanted import Form, Wanted
from homebox.model.guides.watcher import Watcher
from homebox.model.tokenizer.base import StreamDecoder, Tokenizer

MAX_TOOLS = 512


def guide_for(
    tokenizer: Tokenizer, stop_ids: Iterable[int], wanted: Wanted, size: int | None = None
) -> Guide | None:
    """Return the guide of an answer; None where nothing is to be enforced.

    `size` is that of the model's logits, where these have more rows than the tokenizer has tokens.
    Raises RequestError naming the field for what cannot be honoured.
    """
    _check(wanted)
    vocabulary = vocabulary_of(tokenizer, stop_ids, size)
    return _Builder(vocabulary, wanted).guide()


def _check(wanted: Wanted) -> None:
    names = [_name(tool) for tool in wanted.tools]
    if len(names) > MAX_TOOLS:
        raise RequestError(f"tools must be at most {MAX_TOOLS}", param="tools")
    choice = wanted.tool_choice
    if choice in ("auto", "none"):
        return
    if not names:
        raise RequestError("tool_choice asks for a call, but there are no tools", "tool_choice")
    if choice != "required" and choice not in names:
        raise RequestError(f"tool_choice names {choice!r}, which is not in tools", "tool_choice")


def _name(tool: object) -> object:
    inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
    return inner.get("name") if isinstance(inner, Mapping) else None


class _Builder:
    """Puts the parts of a guide together."""

    def __init__(self, vocabulary: Vocabulary, wanted: Wanted) -> None:
        self._vocabulary = vocabulary
        self._wanted = wanted
        settings = vocabulary.tokenizer.settings
        self._template = (settings.template or "") + (settings.tool_template or "")
        self._dialect = dialect_of(settings.template or "", vocabulary.tokenizer.special)

    def guide(self) -> Guide | None:
        wanted = self._wanted
        must = wanted.tool_choice not in ("auto", "none")
        calls = wanted.tools and wanted.tool_choice != "none"
        if not (calls or wanted.form or wanted.thinking_budget is not None or wanted.tools):
            return None
        tokens_of(self._vocabulary)
        watcher = Watcher(self._dialect, wanted.tools if calls else (), wanted.prompt)
        plan = Plan(parallel=wanted.parallel)
        made: Calls | None = None
        if calls:
            made = self._calls()
            plan.call = made.opened
            made.prepare()
        elif wanted.tools:
            plan.free = self._without_marks()
        if wanted.form or must:
            plan.begin = self._beginnings(made, must)
            plan.thoughts = self._thoughts()
            plan.begin(False)  # what cannot be honoured shows now
        decoder = StreamDecoder(
            self._vocabulary.tokenizer, self._continues, shown=self._shown(watcher)
        )
        budget = Budget(self._vocabulary, wanted.thinking_budget)
        return AnswerGuide(self._vocabulary, watcher, decoder, plan, budget)

    @property
    def _continues(self) -> bool:
        """Whether the answer carries on a text, so that its first blank is part of it."""
        prompt = self._wanted.prompt
        return bool(prompt) and not prompt.endswith(tuple(self._vocabulary.tokenizer.special))

    def _shown(self, watcher: Watcher) -> frozenset[int]:
        special = self._vocabulary.tokenizer.special
        return frozenset(special[mark] for mark in watcher.marks if mark in special)

    def _calls(self) -> Calls:
        wanted = self._wanted
        tools = offered(wanted.tools, self._vocabulary)
        if wanted.tool_choice not in ("auto", "required"):
            tools = [tool for tool in tools if tool.name == wanted.tool_choice]
        return Calls(self._vocabulary, self._dialect, self._template, tools, wanted.parallel)

    def _beginnings(self, calls: Calls | None, must: bool) -> Callable[[bool], Sequence[Segment]]:
        """Return what makes the stretches of which one must come, behind a thought or not."""
        form = None if must else self._wanted.form
        rules = "" if form is None else rules_of(form, self._vocabulary)

        def begin(behind_thought: bool) -> Sequence[Segment]:
            segments = []
            if calls is not None:
                segments.append(calls.wanted(self._lead(behind_thought), behind_thought))
            if form is not None:
                segments.append(self._form(form, rules, behind_thought))
            return segments

        return begin

    def _form(self, form: Form, rules: str, behind_thought: bool) -> Segment:
        lead = self._frame(behind_thought) or self._lead(behind_thought, form)
        grammar = f"start: {lead} form\n{rules}"
        matcher = matcher_of(self._vocabulary, grammar, param_of(form))
        return Segment(self._vocabulary, matcher, param_of(form), json=is_json(form), ends=True)

    def _lead(self, behind_thought: bool, form: Form | None = None) -> str:
        """Return the blanks that may stand before what must come."""
        tokenizer = self._vocabulary.tokenizer
        if behind_thought:
            return r"/\n{0,2}/"
        if not tokenizer.strips_space or self._continues:
            return ""
        # The decoder takes the first blank of an answer away.
        return '" "' if form is not None and not is_json(form) else r"/ ?/"

    def _frame(self, behind_thought: bool) -> str:
        """Return the marks that a model writes before any text, as far as its format has some."""
        shown = {mark for each in self._dialect.formats if each.frames for mark in each.opens}
        mark = self._vocabulary.mark
        if CHANNEL in shown:
            start = f'{mark(START)} "assistant" ' if behind_thought else ""
            return f'{start}{mark(CHANNEL)} "final" {mark(MESSAGE)}'
        if ">>>" in shown:
            return '"all\\n"' if self._wanted.prompt.endswith(">>>") else '">>>all\\n"'
        return ""

    def _thoughts(self) -> Bits | None:
        """Return the tokens that open a thought, where the answer may begin with one."""
        prompt = self._wanted.prompt.rstrip()
        closed = any(prompt.endswith(close) for _, close in self._dialect.thoughts)
        if closed or self._wanted.thinking_budget == 0:
            return None
        special = self._vocabulary.tokenizer.special
        ids = [special[mark] for mark, _ in self._dialect.thoughts if mark in special]
        return self._vocabulary.bits(ids) if ids else None

    def _without_marks(self) -> Bits | None:
        """Return all tokens but those that open a call."""
        special = self._vocabulary.tokenizer.special
        marks = [mark for each in self._dialect.formats if not each.frames for mark in each.opens]
        ids = [special[mark] for mark in marks if mark in special]
        return self._vocabulary.all & ~self._vocabulary.bits(ids) if ids else None
