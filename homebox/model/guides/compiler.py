"""Grammars made ready to use, within bounds of size, time and memory, and kept for later.

The one idea: agents send the same tools with every request, so what was compiled is found by its
text; an answer gets a copy. Invariant: no grammar, however hostile, costs more than `LIMITS`.
"""

import re
import threading

import llguidance

from homebox.errors import RequestError
from homebox.model.guides.vocabulary import Vocabulary

MAX_GRAMMAR = 1 << 20  # characters
MAX_NESTING = 100  # brackets within brackets of a grammar or a regular expression
KEPT = 32  # compiled grammars of a vocabulary
KEPT_SIZE = 4 << 20  # characters of them together
LIMITS = llguidance.LLParserLimits(
    max_items_in_row=2_000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)

_PLACE = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")
_lock = threading.Lock()


def matcher_of(vocabulary: Vocabulary, grammar: str, param: str) -> llguidance.LLMatcher:
    """Return a fresh matcher of a grammar in Lark's syntax; may be called from any thread.

    Raises RequestError naming `param` for a grammar that is none, or too large.
    """
    kept = vocabulary.compiled
    with _lock:
        known = kept.get(grammar)
        if known is not None:
            kept.move_to_end(grammar)
    if known is None:
        known = _compiled(vocabulary, grammar, param)
        with _lock:
            kept[grammar] = known
            while len(kept) > KEPT or sum(map(len, kept)) > KEPT_SIZE:
                if len(kept) == 1:
                    break
                kept.popitem(last=False)
    return known.deep_copy()


def unusable(vocabulary: Vocabulary, rule: str) -> str:
    """Return why the body of a rule cannot be used; nothing if it can."""
    try:
        matcher_of(vocabulary, f"start: {rule}", "it")
    except RequestError as error:
        return str(error)
    return ""


def _compiled(vocabulary: Vocabulary, grammar: str, param: str) -> llguidance.LLMatcher:
    if len(grammar) > MAX_GRAMMAR:
        raise RequestError(f"{param} makes too large a grammar; ask for less", param=param)
    matcher = llguidance.LLMatcher(vocabulary.grammars, grammar, log_level=0, limits=LIMITS)
    reason = _first_line(matcher.get_error()) if matcher.is_error() else _stuck(matcher)
    if reason:
        raise RequestError(f"{param} cannot be enforced: {reason}", param=param)
    return matcher


def _stuck(matcher: llguidance.LLMatcher) -> str:
    """Return why no answer can even begin; some grammars are found too large only now."""
    tried = matcher.deep_copy()
    allowed = tried.compute_bitmask()
    if tried.is_error():
        return _first_line(tried.get_error())
    return "" if any(allowed) else "there is nothing that it allows"


def check_nesting(text: str, param: str) -> None:
    """Raise RequestError if brackets nest too deeply for a parser that recurses."""
    depth = deepest = 0
    for char in text:
        if char in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in ")]}":
            depth = max(0, depth - 1)
    if deepest > MAX_NESTING:
        raise RequestError(f"{param} nests more than {MAX_NESTING} brackets", param=param)


def _first_line(error: str) -> str:
    first, *rest = error.strip().splitlines() or [""]
    # What is wrong with a regular expression is said below a drawing of it.
    reasons = [each.strip() for each in rest if each.strip().startswith("error:")]
    line = " ".join([_PLACE.sub("", first), *reasons[:1]])
    return line if len(line) <= 300 else line[:297] + "..."
