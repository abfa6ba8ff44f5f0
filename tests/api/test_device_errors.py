"""A device that runs out of memory or is lost: that request gets 503, the daemon goes on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from homebox.daemon import Box, running
from homebox.errors import DeviceError, OutOfDeviceMemoryError
from homebox.hosting.parts import Parts, load_model
from homebox.model import model
from homebox.model.decoder import transformer
from homebox.model.decoder.stages import Stage
from homebox.model.placement import devices
from tests.api.box import body, events, text_of
from tests.api.fake_learner import parts as fake_parts
from tests.api.fake_model import FakeModel
from tests.api.test_daemon import config_for
from tests.unit.failing_device import FULL, LOST, Rack

QUESTION = "Who are you?"


@pytest.fixture
def rack(monkeypatch: pytest.MonkeyPatch) -> Rack:
    rack = Rack()
    for module in (devices, model, transformer):
        monkeypatch.setattr(module, "device_named", rack.named)
    return rack


@pytest.fixture
def box(tmp_path: Path, rack: Rack) -> Iterator[Box]:
    """The built-in model on a device that can fail, behind the whole daemon."""
    fakes = fake_parts(FakeModel())
    real = Parts(load_model, fakes.learn, fakes.read_adapter)
    config = config_for(
        tmp_path / "state",
        **{"model.device": "cl:0", "model.context": 256, "model.slots": 2},
    )
    with running(config, real) as box:
        yield box


def ask(box: Box, **fields: Any) -> httpx.Response:
    fields = {"temperature": 0, "max_tokens": 12} | fields
    url = f"{box.url}/v1/chat/completions"
    return httpx.post(url, json=body(QUESTION, **fields), trust_env=False, timeout=60)


def said(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["message"]["content"])


def refused(response: httpx.Response, code: str) -> str:
    assert response.status_code == 503, response.text
    assert int(response.headers["Retry-After"]) >= 1
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", code)
    return str(error["message"])


@pytest.mark.parametrize("after", [0, 3])
def test_a_full_device_fails_one_request(box: Box, rack: Rack, after: int) -> None:
    wanted = said(ask(box))
    rack.device.fail(FULL, after)
    assert "failed as it was told to" in refused(ask(box), "out_of_device_memory")
    assert said(ask(box)) == wanted
    assert len(rack.opened) == 1
    assert httpx.get(f"{box.url}/health", trust_env=False).json() == {
        "status": "ok",
        "device": "cl:0",
    }


def test_without_protection_a_failed_program_stays_broken(
    box: Box, rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(ask(box))
    monkeypatch.setattr(Stage, "forget_programs", lambda self: None)
    rack.device.fail(FULL)
    refused(ask(box), "out_of_device_memory")
    assert ask(box).status_code == 500


def test_a_stream_ends_with_an_error_event(box: Box, rack: Rack) -> None:
    wanted = said(ask(box))
    rack.device.fail(FULL, 4)
    url = f"{box.url}/v1/chat/completions"
    asked = body(QUESTION, temperature=0, max_tokens=12, stream=True)
    with httpx.stream("POST", url, json=asked, trust_env=False, timeout=60) as stream:
        assert stream.status_code == 200
        *chunks, last = events(stream)
    assert last["error"]["code"] == "out_of_device_memory"
    sent = text_of(chunks)
    assert sent and wanted.startswith(sent)
    assert said(ask(box)) == wanted
    (broken,) = (turn for turn in box.daemon.state.ledger.turns() if turn.finish_reason == "error")
    assert broken.messages[-1].content == sent


def test_a_lost_device_is_opened_anew_for_the_next_request(box: Box, rack: Rack) -> None:
    wanted = said(ask(box))
    rack.device.fail(LOST, 2)
    refused(ask(box), "device_lost")
    assert len(rack.opened) == 1  # nothing is done before somebody asks
    assert said(ask(box)) == wanted
    assert len(rack.opened) == 2
    assert rack.opened[0].runs < rack.opened[1].runs + 20


def test_a_device_that_is_lost_again_is_said_clearly(
    box: Box, rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = said(ask(box))
    rack.device.fail(LOST)
    rack.refusal = DeviceError("the driver does not answer")
    refused(ask(box), "device_lost")
    assert "could not be opened again: the driver does not" in refused(ask(box), "device_lost")
    rack.refusal = None
    message = refused(ask(box), "device_lost")  # too soon
    assert "choose another --device" in message and "restart" in message
    assert len(rack.opened) == 1
    monkeypatch.setattr(transformer, "PATIENCE", 0.0)
    box.daemon.model.transformer._retry_at = 0.0  # type: ignore[attr-defined]
    assert said(ask(box)) == wanted
    assert len(rack.opened) == 2


def test_status_names_devices_and_plan(box: Box) -> None:
    found = box.daemon.status()
    assert found["device"] == "cl:0"
    assert found["plan"][0].startswith("cl:0 (cl:0): layers 0 to 5, ")
    assert found["plan"][0] in box.daemon.greeting


def test_a_budget_below_the_model_stops_the_start(tmp_path: Path) -> None:
    config = config_for(tmp_path / "state", **{"model.device": "cpu", "model.memory": 4})
    with pytest.raises(OutOfDeviceMemoryError, match=r"needs .*; cpu .* has 4.2 MB free"):
        load_model(config)
