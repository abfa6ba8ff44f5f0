"""A secret that was told once is not kept where a later message or the answer repeats a part."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from homebox.memory.state import open_state
from tests.api import box as boxes
from tests.api.box import Box

TOLD = "our wifi password is Xk29-Lisbon-77"
LATER = "so it ends in Lisbon-77 and begins with Xk29?"


@pytest.mark.parametrize("redact", [True, False])
def test_parts_of_a_secret_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redact: bool
) -> None:
    monkeypatch.setattr(boxes, "open_state", partial(open_state, redact=redact))
    box = Box(tmp_path / "state")
    try:
        history: list[dict[str, Any]] = [{"role": "user", "content": TOLD}]
        kept = []
        for text in (LATER, "and now?"):
            answer = box.http.post(
                "/v1/chat/completions",
                json={"model": "homebox", "messages": history},
                headers={"x-session-id": "ses_1"},
            )
            kept.append(box.turn(answer))
            history += [answer.json()["choices"][0]["message"], {"role": "user", "content": text}]
        asked = {"model": "homebox", "input": "Once more: Lisbon-77.", "store": True}
        kept.append(box.turn(box.http.post("/v1/responses", json={**asked, "user": "u"})))
        assert "Xk29" in answer.json()["choices"][0]["message"]["content"]  # the owner sees it
        words = json.dumps([[each.content for each in (*t.prompt, *t.messages)] for t in kept[:2]])
        assert ("Xk29" in words) is not redact
        assert ("Lisbon" in words) is not redact
        assert "Lisbon-77" in kept[2].messages[0].content  # of another conversation
    finally:
        box.close()
