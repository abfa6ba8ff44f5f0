"""Fixtures of the API tests: a box with the fake model behind real HTTP."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.box import Box
from tests.api.fake_model import FakeModel

MakeBox = Callable[..., Box]


@pytest.fixture
def make_box(tmp_path: Path) -> Iterator[MakeBox]:
    boxes: list[Box] = []

    def make(model: FakeModel | None = None, **settings: Any) -> Box:
        boxes.append(Box(tmp_path / f"state{len(boxes)}", model, **settings))
        return boxes[-1]

    yield make
    for box in boxes:
        box.close()


@pytest.fixture
def box(make_box: MakeBox) -> Box:
    return make_box()
