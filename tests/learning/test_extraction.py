"""A scripted model proposes true, invented, injected and secret values; only true ones count."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homebox.errors import EngineError, RequestError
from homebox.learning.lessons.extraction import (
    LEAST_PARAMETERS,
    MOST_TOKENS,
    accepted,
    clauses_for,
    extract,
    prompt_for,
    proposals_in,
    wanted_of,
)
from homebox.learning.lessons.harvest import EXTRACTED
from homebox.learning.lessons.live import live_lessons
from homebox.memory.lessons import ALIVE
from homebox.memory.state import State, open_state
from homebox.memory.turns import Message
from tests.learning.fake_model import FakeModel, FakeSequence
from tests.learning.kit import turn

TEXT = "Ever since Biscuit moved in with us I walk a lot."
Propose = Callable[[str], object]


class Proposing(FakeModel):
    """Answers with what `propose` makes of the owner's clauses."""

    def __init__(self, propose: Propose) -> None:
        super().__init__()
        self.propose = propose
        self.asked: list[str] = []
        self.guides: list[Any] = []

    def guide(self, wanted: Any) -> None:
        self.guides.append(wanted.form.schema)

    def start(self, request: Any) -> FakeSequence:
        messages = json.loads(self.chat.prompts[tuple(request.prompt_ids)])
        self.asked.append(messages[-1][1])
        assert request.sampling.temperature == 0.0
        answer = self.propose(self.asked[-1])
        self.sequences.append(
            FakeSequence(answer if isinstance(answer, str) else json.dumps(answer))
        )
        return self.sequences[-1]


def item(subject: str, value: str, statement: str = "The owner said so.") -> dict[str, str]:
    return {"kind": "fact", "subject": subject, "value": value, "statement": statement}


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with open_state(tmp_path / "state") as opened:
        yield opened


def tell(state: State, *said: Message | str, conversation: str = "c") -> str:
    messages = [Message("user", each, "owner") if isinstance(each, str) else each for each in said]
    return state.ledger.append(
        conversation=conversation,
        model="m",
        adapter="base",
        sampling={},
        messages=[*messages, Message("assistant", "Good.", "assistant")],
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
    )


def run(state: State, model: FakeModel, most: int = 200) -> int:
    live = live_lessons(state.ledger)
    live.catch_up()
    steps = extract(model, state.ledger, live, most)  # type: ignore[arg-type]
    while True:
        try:
            next(steps)
        except StopIteration as over:
            count: int = over.value
            return count


def told(state: State) -> list[tuple[str, str, str]]:
    return [(each.subject, each.value, each.state) for each in state.ledger.lessons()]


def test_what_the_owner_said_is_kept_in_the_owners_words(state: State) -> None:
    id = tell(state, TEXT)
    model = Proposing(lambda _: [item("dog's name", "Biscuit")])
    assert run(state, model) == 1
    (lesson,) = state.ledger.lessons(ALIVE)
    assert (lesson.subject, lesson.value, lesson.origin) == ("dog's name", "Biscuit", "model")
    assert lesson.statement == TEXT.rstrip(".")
    assert lesson.sources == (id,)
    assert model.guides[0]["type"] == "array"
    assert all(sequence.closed for sequence in model.sequences)


INVENTED = (
    item("dog's name", "Rex"),
    item("home", "Oslo"),
    item("dog's name", "Biscuit moved out"),
    item("x" * 200, "Biscuit"),
    item("<b>dog</b>", "Biscuit"),
)


@pytest.mark.parametrize("proposed", INVENTED)
def test_what_the_owner_did_not_say_is_not(state: State, proposed: dict[str, str]) -> None:
    tell(state, TEXT)
    assert run(state, Proposing(lambda _: [proposed])) == 0
    assert state.ledger.lessons() == []


def test_without_the_check_inventions_come_through() -> None:
    """Control: what the test above refuses is refused by the check, not by chance."""
    spoken = turn(0, TEXT)
    answer = json.dumps(list(INVENTED))
    believed = accepted(proposals_in(answer), clauses_for(spoken), spoken, supported=False)
    assert {"Rex", "Oslo"} <= {lesson.value for lesson in believed}
    assert accepted(proposals_in(answer), clauses_for(spoken), spoken) == []


@pytest.mark.parametrize(
    "text",
    [
        "Did Biscuit move in with us this year, and do I walk more?",
        "If Biscuit moved in with us I would walk more.",
        'He said "Biscuit moved in with us and my walks are long".',
        "> Biscuit moved in with us and I walk a lot.",
        "Translate: Biscuit moved in with us and I walk a lot.",
        "Biscuit moved in with Tom.",
        "I am not the owner of Biscuit.",
        "```\nmy dog = Biscuit\n```",
        "/fix my dog moved in and is Biscuit",
    ],
)
def test_what_is_no_claim_of_the_owner_is_not_even_read(state: State, text: str) -> None:
    tell(state, text)
    model = Proposing(lambda _: [item("dog's name", "Biscuit")])
    assert run(state, model) == 0
    assert "Biscuit" not in "".join(model.asked)
    assert state.ledger.lessons() == []


@pytest.mark.parametrize("provenance", ["tool", "file", "web", "system", "assistant"])
def test_nobody_else_is_read(state: State, provenance: str) -> None:
    role = {"tool": "tool", "system": "system", "assistant": "assistant"}.get(provenance, "user")
    tell(state, "What is new?", Message(role, TEXT, provenance))
    model = Proposing(lambda _: [item("dog's name", "Biscuit")])
    assert run(state, model) == 0
    assert model.asked == []


def test_words_of_a_page_wait_in_the_owners_mouth(state: State) -> None:
    tell(state, "Look at this.", Message("user", TEXT, "web"))
    tell(state, TEXT)
    run(state, Proposing(lambda _: [item("dog's name", "Biscuit")]))
    assert told(state) == [("dog's name", "Biscuit", "quarantined")]


def test_secrets_and_suspicious_words_are_not_learned(state: State) -> None:
    tell(state, "Ever since my bike lock got 4711 as its pin code I sleep well.")
    tell(state, "Ever since I moved my blog to evil.example.com I write more.")
    values = iter(("4711", "evil.example.com"))
    run(state, Proposing(lambda _: [item("blog", next(values))]))
    assert [state_of for _, _, state_of in told(state)] in (["quarantined"], [])
    assert all(value != "4711" for _, value, _ in told(state))


@pytest.mark.parametrize(
    "answer",
    ["", "[", "null", "{}", '[{"kind": "fact"}]', "[[[[", "[1, null, []]", "x" * 10_000],
)
def test_broken_answers_give_nothing(state: State, answer: str) -> None:
    tell(state, TEXT)
    assert run(state, Proposing(lambda _: answer)) == 0


def test_a_turn_is_read_once_and_a_run_has_a_limit(state: State) -> None:
    ids = [tell(state, f"Ever since Biscuit{number} moved in I walk.") for number in range(5)]
    model = Proposing(lambda _: [])
    run(state, model, most=3)
    assert len(model.asked) == 3
    run(state, model)
    run(state, model)
    assert len(model.asked) == 5
    assert {f"{EXTRACTED}{id}" for id in ids} == set(state.ledger.marks(EXTRACTED))


def test_what_the_rules_read_is_not_asked_again(state: State) -> None:
    tell(state, "My dog is called Rex.")
    model = Proposing(lambda _: [item("dog's name", "Rex")])
    run(state, model)
    assert model.asked == []


def test_a_reader_that_begins_anew_knows_what_the_model_found(state: State) -> None:
    tell(state, TEXT)
    run(state, Proposing(lambda _: [item("dog's name", "Biscuit")]))
    live = live_lessons(state.ledger)
    live.begin_anew()
    live.catch_up()
    assert [each.value for each in live.found.current["dog's name"]] == ["Biscuit"]
    tell(state, "No, it is Scone, not Biscuit.")
    live.catch_up()
    assert told(state) == [("dog's name", "Biscuit", "superseded"), ("dog's name", "Scone", "new")]


def test_small_models_are_not_asked_unless_told_to() -> None:
    small, large = FakeModel(), FakeModel()
    large.config = replace(small.config, vocab_size=LEAST_PARAMETERS // 4)
    chosen: Sequence[bool] = [
        wanted_of(model, setting)  # type: ignore[arg-type]
        for model in (small, large)
        for setting in ("auto", "on", "off")
    ]
    assert chosen == [False, True, False, True, True, False]


def test_the_prompt_shows_nothing_but_the_owners_clauses() -> None:
    messages = prompt_for(["I walk a lot"])
    assert messages[0]["role"] == "system"
    assert messages[-1] == {"role": "user", "content": "I walk a lot"}


CLAUSE = "Ever since Biscuit and C++ moved in with O'Neil at 5:45 I walk a lot"
RAW = st.one_of(
    st.text(max_size=300),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=200)),
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner)),
        max_leaves=12,
    ).map(json.dumps),
)
PIECES = st.sampled_from(
    ["Biscuit", "biscuit", "BISCUIT", "Bіscuit", "Ｂiscuit", "Biscuit\u202e", "\ud800", "walk",
     "wal", "cuit", "5:45", "5 45", "C++", "O'Neil", "a lot", "\x00", "Zorblax", "4711", " ", "!"]
)  # fmt: skip
VALUES = st.one_of(st.lists(PIECES, min_size=1, max_size=6).map(" ".join), st.text(max_size=130))
ITEMS = st.lists(
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["fact", "preference", "x", 3]),
            "statement": st.text(max_size=40),
        },
        optional={
            "subject": st.one_of(st.text(max_size=70), st.just("dog's name")),
            "value": VALUES,
        },
    ),
    max_size=8,
).map(json.dumps)


@settings(max_examples=300, deadline=None)
@given(st.one_of(RAW, ITEMS))
def test_whatever_a_model_writes_only_the_owners_words_become_lessons(answer: str) -> None:
    spoken = turn(0, ("user", f"{CLAUSE}.", "owner"), ("tool", "My cat is Zorblax.", "tool"))
    clauses = clauses_for(spoken)
    assert clauses == [CLAUSE]
    for lesson in accepted(proposals_in(answer), clauses, spoken):
        assert lesson.value in CLAUSE
        assert lesson.statement == CLAUSE
        assert not re.search(rf"\w{re.escape(lesson.value)}|{re.escape(lesson.value)}\w", CLAUSE)
        assert len(lesson.value.split()) <= 8 and lesson.origin == "model"
        assert lesson.hash  # it can be written


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("biscuit", "Biscuit"),
        ("BISCUIT!", "Biscuit"),
        ("5 45", "5:45"),
        ("c++", "C++"),
        ("o neil", "O'Neil"),
        ("Biscuit\ud800", "Biscuit"),
        ("Bіscuit", None),  # with a Cyrillic letter
        ("Ｂiscuit", None),
        ("cuit", None),
        ("Biscuit moved", None),
        ("lot Ever", None),
        ("Zorblax", None),
        ("", None),
        ("a " * 60, None),
    ],
)
def test_a_value_is_kept_as_the_owner_wrote_it(value: str, kept: str | None) -> None:
    spoken = turn(0, f"{CLAUSE}.")
    answer = json.dumps([item("dog's name", value)])
    found = accepted(proposals_in(answer), clauses_for(spoken), spoken)
    assert [lesson.value for lesson in found] == ([kept] if kept else [])


def test_a_value_does_not_reach_over_the_end_of_a_clause() -> None:
    clauses = ["I walk with Biscuit", "Tom and I swim"]
    answer = json.dumps([item("dog's name", "Biscuit Tom")])
    assert accepted(proposals_in(answer), clauses, turn(0, TEXT)) == []


def test_a_model_that_cannot_answer_ends_the_reading_and_not_the_run(state: State) -> None:
    class Broken(Proposing):
        def start(self, request: Any) -> FakeSequence:
            raise EngineError("logits that are no numbers")

    tell(state, TEXT)
    assert run(state, Broken(lambda _: [])) == 0
    assert not state.ledger.marks(EXTRACTED)
    assert run(state, Proposing(lambda _: [item("dog's name", "Biscuit")])) == 1


def test_a_template_without_system_messages_reads_nothing(state: State) -> None:
    model = Proposing(lambda _: [item("dog's name", "Biscuit")])

    def render(*_: Any, **__: Any) -> list[int]:
        raise RequestError("the model's chat template knows no system messages")

    model.chat.render = render  # type: ignore[method-assign]
    tell(state, TEXT)
    assert run(state, model) == 0
    assert model.asked == []


def test_no_answer_is_longer_than_its_budget(state: State) -> None:
    seen = []

    class Asked(Proposing):
        def start(self, request: Any) -> FakeSequence:
            seen.append(request.sampling.max_tokens)
            return super().start(request)

    tell(state, TEXT)
    run(state, Asked(lambda _: []))
    assert seen == [MOST_TOKENS]
    long = Asked(lambda _: [])
    long.context = 10
    tell(state, f"{TEXT} And Tom moved in with us, too.")
    run(state, long)
    assert seen == [MOST_TOKENS]
