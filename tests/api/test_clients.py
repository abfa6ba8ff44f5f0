"""The openai SDK with the fake model; tests/clients has real clients with a real one."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.api.box import Box
from tests.api.fake_model import FakeModel

ASKED = [{"role": "user", "content": "Say hi"}]
REQUIRED = (
    "models_list",
    "models_retrieve",
    "chat",
    "content_parts_developer_max_completion_tokens",
    "stream_usage",
    "stop",
    "tools_roundtrip",
    "tools_roundtrip_stream",
    "tool_choice_none",
    "unknown_model_404",
    "context_overflow_400",
    "image_part_accepted_or_400",
    "metadata_store_unknown_fields_ignored",
)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    box = Box(tmp_path_factory.mktemp("state") / "s", FakeModel(context=1 << 20))
    yield box
    box.close()


@pytest.fixture
def client(box: Box) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{box.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_sdk_lists_and_retrieves_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["homebox", "base"]
    assert client.models.retrieve("homebox").id == "homebox"


def test_sdk_chats_and_streams(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="homebox", messages=ASKED, temperature=0)
    assert whole.choices[0].message.content == "<base> you said: Say hi"
    assert whole.usage is not None
    text, usage, reason = "", None, None
    for chunk in client.chat.completions.create(
        model="homebox", messages=ASKED, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reason = choice.finish_reason or reason
    assert text == whole.choices[0].message.content
    assert usage == whole.usage
    assert reason == "stop"


def test_sdk_raises_its_own_errors(client: openai.OpenAI) -> None:
    create = client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as missing:
        create(model="nothing", messages=ASKED)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        create(model="homebox", messages=ASKED, temperature=9)
    assert wrong.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        create(model="homebox", messages=[{"role": "user", "content": "x" * (1 << 20)}])
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.APIError, match="told to fail"):
        list(create(model="homebox", messages=[{"role": "user", "content": "boom"}], stream=True))


def test_sdk_acceptance_script(box: Box, shared: Path) -> None:
    script = shared / "clients" / "run_openai_sdk.py"
    done = subprocess.run(
        [sys.executable, str(script), f"{box.url}/v1", "homebox"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )
    results = {line.split()[2]: line.split()[0] for line in done.stdout.splitlines()[:-1] if line}
    assert {name: results.get(name) for name in REQUIRED} == dict.fromkeys(REQUIRED, "PASS")
