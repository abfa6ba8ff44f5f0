"""What a request says never writes a line of the log: control characters are spelled out."""

import io
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from homebox import log_lines
from homebox.model import load
from tests.api.box import Box, body
from tests.api.conftest import MakeBox
from tests.api.fake_model import FakeModel
from tests.api.real import RealModel

FORGED = "homebox is fine"
KEY = f"a\r\n{FORGED}\x1b\u202e\u2028"  # short enough to be quoted in full
PLAIN = logging.Formatter(log_lines.FORMAT)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The log as a daemon begins it, with why prefixes were missed."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(logging.getLogger("homebox.prefixes"), "level", logging.INFO)
    logging.getLogger("homebox.prefixes").manager._clear_cache()  # type: ignore[attr-defined]
    level = root.level
    stream = io.StringIO()
    log_lines.begin(stream)
    yield stream
    root.setLevel(level)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    model: Any = RealModel(load("tiny", slots=2))
    box = Box(tmp_path_factory.mktemp("log") / "state", model)
    yield box
    box.close()


def standing_alone(text: str) -> list[str]:
    """Lines as any reader may split them that begin as the forged one does."""
    return [line for line in text.splitlines() if line.startswith(FORGED)]


def ask(box: Box, *words: str) -> None:
    """Ask what shares no prefix with what came before, so that the log says why."""
    for word in words:
        text = f"{word} and {word} " * 60
        response = box.chat(text, prompt_cache_key=KEY, max_tokens=1)
        assert response.status_code == 200


def test_a_name_of_a_conversation_is_in_no_line(tiny: Box, log: io.StringIO) -> None:
    ask(tiny, "soup", "bread")
    text = log.getvalue()
    assert " tokens of conversation " in text  # it does say what happened
    assert FORGED not in text
    assert all(line.isprintable() for line in text.split("\n"))
    assert all(line.startswith("homebox: homebox.") for line in text.splitlines())


class Quoting(FakeModel):
    """A model whose mistakes quote what it was asked."""

    def start(self, *args: Any, **options: Any) -> Any:
        raise RuntimeError(f"cannot answer {KEY}\n{FORGED}")


@pytest.mark.parametrize("ours", [True, False])
def test_a_traceback_forges_no_line(make_box: MakeBox, log: io.StringIO, ours: bool) -> None:
    if not ours:  # the control
        logging.getLogger().handlers[0].setFormatter(PLAIN)
    box = make_box(Quoting())
    response = box.http.post("/v1/chat/completions", json=body("hi"))
    assert response.status_code == 500
    assert FORGED not in response.text
    text = log.getvalue()
    assert "RuntimeError" in text
    assert bool(standing_alone(text)) is not ours
    if ours:
        assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Grüße, 世界 🤗", "Grüße, 世界 🤗"),
        ("a\tb\x00\x7f\x85", r"a\tb\x00\x7f\x85"),
        ("\udcff\u200b\U000e0041", r"\udcff\u200b\U000e0041"),
    ],
)
def test_what_is_spelled_out(text: str, told: str) -> None:
    assert log_lines.printable(text) == told
