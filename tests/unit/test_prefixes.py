"""Prefixes that are kept change no bit of an answer: with them, without them, however they came."""

import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from homebox.engine.graph.device import HOST
from homebox.errors import (
    ConfigError,
    DeviceLostError,
    NoFreeSlotError,
    OutOfDeviceMemoryError,
)
from homebox.model import GenerationRequest, Model, SamplingParams, load
from homebox.model.decoder.pages import PAGE
from homebox.model.decoder.stages import Part
from homebox.model.decoder.transformer import Transformer
from homebox.model.loading.open_model import open_model
from homebox.model.lora import init_adapter
from homebox.model.model import plan_load
from tests.unit.failing_device import LOST, Rack

OWNER = "owner"
HASH = "ab" * 32


class Listening:
    """A model's transformer whose logits are noted, the last of each chunk and of each token."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.heard: list[bytes] = []
        self.read = 0
        self._inner: Any = model.transformer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def forward(self, slot: int, position: int, ids: Any, adapter: int) -> Any:
        logits = self._inner.forward(slot, position, ids, adapter)
        self.read += len(ids)
        self.heard.append(logits.tobytes())
        return logits

    def decode(self, *args: Any) -> Any:
        logits = self._inner.decode(*args)
        self.heard += [row.tobytes() for row in logits]
        return logits


def answer(
    model: Model, ids: Sequence[int], owner: str | None = OWNER, count: int = 6, **more: Any
) -> tuple[list[int], list[bytes], int]:
    """Return the ids of an answer, the bits of the logits behind them, and how many were cached."""
    ears = Listening(model)
    inner, model.transformer = model.transformer, ears  # type: ignore[assignment]
    try:
        request = GenerationRequest(ids, SamplingParams(max_tokens=count), owner=owner, **more)
        sequence = model.start(request)
        found: list[int] = []
        while not sequence.finished:
            piece = sequence.step()
            found += piece.token_ids if piece is not None else ()
    finally:
        model.transformer = inner
    return found, ears.heard[-len(found) :], sequence.cached_tokens


def prompt(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(300, 1200, count).tolist()


def tiny(kind: str = "f32", slots: int = 2, context: int = 512, **more: Any) -> Model:
    model = load("tiny", context, slots, kv=kind, device="cpu", **more)
    model.stop_ids = frozenset()
    model.speculation.on = False
    return model


@pytest.fixture(scope="module", params=["f32", "f16", "q8"])
def model(request: pytest.FixtureRequest) -> Model:
    return tiny(request.param)


@pytest.fixture(autouse=True)
def fresh(request: pytest.FixtureRequest) -> None:
    if "model" in request.fixturenames:
        request.getfixturevalue("model").prefixes.clear()


def test_an_answer_is_the_same_with_and_without_prefixes(model: Model) -> None:
    ids = prompt(200)
    wanted = answer(model, ids, owner=None)
    assert wanted[2] == 0
    for cached in (0, 199, 199):
        assert answer(model, ids) == (*wanted[:2], cached)


def test_a_conversation_goes_on_where_it_ended(model: Model) -> None:
    ids = prompt(150)
    said, _, _ = answer(model, ids)
    longer = ids + said + prompt(40, seed=1)
    wanted = answer(model, longer, owner=None)
    # The last token of an answer is said and not taken in.
    assert answer(model, longer) == (*wanted[:2], len(ids) + len(said) - 1)


def test_the_log_has_no_word_of_a_conversation(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    """What is forgotten is taken out of the ledger; nothing is ever taken out of a log."""
    caplog.set_level(logging.DEBUG, "homebox")
    said = [f"{'My dog sleeps. ' * 20}{name} sleeps, too." for name in ("Walnut", "Hazel")]
    for text in said:
        answer(model, model.tokenizer.encode(text), conversation="about Agatha")
    assert "; differs: at token " in caplog.text
    words = {*" ".join([*said, "about Agatha"]).lower().replace(".", "").split()} - {"too,"}
    told = set(re.findall(r"[a-z]+", caplog.text.lower()))
    assert not told & words


@pytest.mark.parametrize("back", [5, 56, 64, 70, 130])
def test_rolling_back_inside_and_over_pages(model: Model, back: int) -> None:
    ids = prompt(200)
    answer(model, ids)
    other = ids[: 200 - back] + prompt(30, seed=back)
    wanted = answer(model, other, owner=None)
    assert answer(model, other) == (*wanted[:2], 200 - back)
    # What was there before is as it was.
    assert answer(model, ids) == (*answer(model, ids, owner=None)[:2], 199)


def test_two_that_share_disturb_each_other_in_nothing(model: Model) -> None:
    ids = prompt(100)
    answer(model, ids)
    prompts = [ids + prompt(20, seed=seed) for seed in (1, 2)]
    wanted = [answer(model, each, owner=None)[0] for each in prompts]
    sampling = SamplingParams(max_tokens=6)
    running = [model.start(GenerationRequest(each, sampling, owner=OWNER)) for each in prompts]
    found: list[list[int]] = [[], []]
    while not all(each.finished for each in running):
        for said, piece in zip(found, model.step(running), strict=True):
            assert not isinstance(piece, Exception)
            said += piece.token_ids if piece is not None else ()
    assert [each.cached_tokens for each in running] == [100, 100]
    assert found == wanted


def test_owners_and_weights_share_nothing(model: Model) -> None:
    ids = prompt(150)
    for name, seed in ((HASH, 0), ("candidate", 1)):
        tensors = init_adapter(model.config, 4, seed)
        noise = np.random.default_rng(seed)
        filled = {k: noise.normal(0, 0.1, v.shape).astype(np.float32) for k, v in tensors.items()}
        model.adapters.add(name, filled)
    base = answer(model, ids, owner=None)
    learned = answer(model, ids, owner=None, adapter=HASH)
    assert base[1] != learned[1]
    assert answer(model, ids)[2] == 0
    assert answer(model, ids, owner="another") == base
    assert [answer(model, ids, owner="")[2] for _ in range(2)] == [0, 149]  # who needs no key
    assert answer(model, ids, adapter=HASH) == learned
    assert answer(model, ids, adapter=HASH) == (*learned[:2], 149)
    # The same hash is the same weights, wherever they lie now; another name may be anything.
    for _ in range(2):
        assert answer(model, ids, adapter="candidate")[2] == 0
    model.adapters.remove(HASH)
    model.adapters.remove("candidate")
    model.adapters.add(HASH, init_adapter(model.config, 4, 0))
    assert answer(model, ids, adapter=HASH)[2] == 149
    model.adapters.remove(HASH)


def test_after_eviction_and_within_little_memory() -> None:
    """A pool of few contexts: what is admitted is answered, with the same bits."""
    small = tiny(context=256, kv_memory=3)
    pages = small.transformer.pages  # type: ignore[attr-defined]
    assert pages.count < 3 * pages.per_slot
    prompts = [prompt(180, seed) for seed in range(pages.count // 3 + 2)]
    wanted = [answer(small, ids, owner=None) for ids in prompts]
    for _ in range(2):
        for ids, each in zip(prompts, wanted, strict=True):
            assert answer(small, ids)[:2] == each[:2]
    found = small.prefixes.statistics
    assert found.evictions > 0
    assert found.reasons["evicted"] > 0
    assert pages.free_pages + len(small.prefixes.tree or ()) == pages.count
    small.prefixes.clear()
    assert pages.free_pages == pages.count


def test_what_is_admitted_never_lacks_pages() -> None:
    small = tiny(slots=8, context=256, kv_memory=3)
    pages = small.transformer.pages  # type: ignore[attr-defined]
    sampling = SamplingParams(max_tokens=256)
    running: list[Any] = []
    with pytest.raises(NoFreeSlotError, match="pages"):
        while len(running) < 8:
            ids = prompt(100, len(running))
            running.append(small.start(GenerationRequest(ids, sampling, owner=OWNER)))
    assert len(running) == pages.count // 4
    waiting = GenerationRequest(prompt(100, 99), sampling, owner=OWNER)
    with pytest.raises(NoFreeSlotError, match="pages"):
        small.start(waiting)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small.slots, "take", lambda: pytest.fail("nothing came back since"))
        with pytest.raises(NoFreeSlotError, match="pages"):
            small.start(waiting)
    running.pop().close()
    running.append(small.start(waiting))
    # An exam has to wait like everybody else.
    with pytest.raises(NoFreeSlotError):
        small.logits(prompt(64 * (pages.count % 4) + 1))
    while not all(each.finished for each in running):
        outcomes = small.step(running)
        assert not any(isinstance(each, Exception) for each in outcomes)
    assert [each.finish_reason for each in running] == ["length"] * len(running)
    assert len(small.logits(prompt(200))) == 200  # idle pages are given up for it
    assert pages.count * PAGE >= 256


def test_a_lost_device_takes_all_prefixes_along() -> None:
    whole = tiny(context=256)
    layers, rack = whole.config.num_layers, Rack()
    parts = [Part(HOST, range(1)), Part(rack.named("cl:0"), range(1, layers))]
    weights: Any = whole.transformer.weights  # type: ignore[attr-defined]
    transformer = Transformer(whole.config, weights, 256, 2, parts=parts, reopen=rack.named)
    model = Model("m", open_model("tiny"), transformer, 256, 2)
    model.stop_ids, model.speculation.on = frozenset(), False
    ids = prompt(150)
    wanted = answer(whole, ids, owner=None)
    for cached in (0, 149):
        assert answer(model, ids) == (*wanted[:2], cached)
    request = GenerationRequest(ids, SamplingParams(max_tokens=50), owner=OWNER)
    talking, waiting = model.start(request), model.start(request)
    talking.step()
    rack.device.fail(LOST)
    with pytest.raises(DeviceLostError):
        while True:
            talking.step()
    assert model.prefixes.statistics.kept_pages > 0
    # It began with pages that are gone now, and so is not gone on with.
    with pytest.raises(DeviceLostError, match="ask again"):
        waiting.step()
    for cached in (0, 149):
        assert answer(model, ids) == (*wanted[:2], cached)
    model.prefixes.clear()
    assert transformer.pages.free_pages == transformer.pages.count


def test_what_keys_and_values_are_is_said() -> None:
    with pytest.raises(ConfigError, match="f32, f16, bf16, q8"):
        load("tiny", kv="q4", device="cpu")
    with pytest.raises(OutOfDeviceMemoryError, match="1 MiB holds keys and values of 192 tokens"):
        load("tiny", 256, kv_memory=1, device="cpu")
    shorter = plan_load("tiny", kv_memory=1, device="cpu")
    assert (shorter.sizes.context, shorter.pages) == (192, 3)
    (portion,) = plan_load("tiny", 256, kv_memory=7, kv="f16", device="cpu").placement.portions
    assert 6 << 20 < portion.bytes.cache <= 7 << 20


def test_the_host_is_not_filled_with_what_is_kept() -> None:
    """Of a pool for all slots only as much is used as half of what is free holds."""
    asked = plan_load("tiny", 4096, 8, device="cpu", memory=64)
    page = asked.placement.portions[0].bytes.cache // asked.sizes.per_slot
    assert asked.sizes.per_slot <= asked.pages < asked.sizes.pages
    assert asked.pages * page <= 64 << 20
    roomy = plan_load("tiny", 2048, 8, device="cpu", memory=80)
    assert roomy.pages >= 2 * roomy.sizes.per_slot  # a title beside the work
    assert plan_load("tiny", 512, 2, device="cpu").pages == 3 * 8
