"""Which devices are chosen, what a model is planned to take of them, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import HOST, HostDevice
from homebox.engine.graph.formats import WEIGHTS
from homebox.errors import ConfigError, DeviceError, OutOfDeviceMemoryError
from homebox.model import load
from homebox.model.architectures.config_file import parse_config
from homebox.model.config import ModelConfig
from homebox.model.decoder.stages import CHUNKS, Kind, Part, Sizes
from homebox.model.decoder.transformer import Transformer
from homebox.model.placement import devices
from homebox.model.placement.devices import Choice, Room, choose, room_of
from homebox.model.placement.plan import Placement, Request, in_proportion, plan
from tests.unit.model_files import QWEN3, ArrayWeights, random_weights
from tests.unit.test_model_transformer import adapter_of, ids_of

# The shape of Qwen3-4B.
LARGE = parse_config(
    {
        **QWEN3,
        "vocab_size": 151936,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40960,
    }
)
GB = 10**9

# The shape of Qwen3-30B-A3B.
MIXED = parse_config(
    {
        **QWEN3,
        "model_type": "qwen3_moe",
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "decoder_sparse_step": 1,
        "norm_topk_prob": True,
        "tie_word_embeddings": False,
    }
)
# Every third layer of three has no experts.
MOE: dict[str, Any] = {
    **QWEN3,
    "model_type": "qwen3_moe",
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 96,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [1],
    "norm_topk_prob": True,
}


@dataclasses.dataclass(eq=False)
class Card:
    """A device that only has a name."""

    name: str

    def allocate(self, nbytes: int, dense: bool) -> Any:
        raise DeviceError("a card of paper")


def room(name: str, free: float, largest: int | None = None) -> Room:
    return Room(Card(name), f"card {name}", int(free * GB), largest)


def request(config: ModelConfig = LARGE, form: str = "q8", context: int = 4096) -> Request:
    return Request(config, WEIGHTS[form], Sizes(context, 9, 8, "int8", dt.f16, CHUNKS[:3]), 16)


def placed(asked: Request, *rooms: Room) -> Placement:
    found = plan(asked, Choice(rooms))
    layers = [layer for portion in found.portions for layer in portion.layers]
    assert layers == list(range(asked.config.num_layers))
    for portion in found.portions:
        assert portion.room.free is not None
        assert portion.bytes.total <= portion.room.free
    return found


def of(found: Placement) -> dict[str, int]:
    return {p.room.device.name: len(p.layers) for p in found.portions}


# Estimates


@pytest.mark.parametrize("base", [QWEN3, MOE], ids=["dense", "experts"])
@pytest.mark.parametrize("form", ["f32", "q8"])
def test_estimates_cover_what_is_taken_and_not_much_more(form: str, base: dict[str, Any]) -> None:
    """Every buffer that a stage makes is counted, programs by an upper bound."""
    raw = {**base, "num_hidden_layers": 3, "max_position_embeddings": 2048, "vocab_size": 2000}
    config = parse_config(raw)
    strict = form == "f32"
    cache = dt.f32 if strict else dt.f16
    sizes = Sizes(1024, 3, 4, "f32" if strict else "int8", cache, CHUNKS[:3])
    asked = Request(config, WEIGHTS[form], sizes, 8)
    weights = ArrayWeights(config, random_weights(config), WEIGHTS[form])
    parts = [Part(HostDevice("a"), range(2)), Part(HostDevice("b"), range(2, 3))]
    model = Transformer(
        config, weights, 1024, 2, 4, 8, sizes.activations, "f32" if strict else "f16", parts
    )
    model.set_adapter(1, adapter_of(config, 1, 8), 1.0)
    for kind in (Kind(1, 256, 1, False), Kind(8, 1, 1, False), Kind(1, 64, 0, True)):
        for stage in (0, 1):
            model.program(kind, stage)
    for stage, part in zip(model.stages, parts, strict=True):
        size = asked.of(part.layers)
        copied = {
            t.node.src[0].arg.address if t.node.src else t.buffer.address: t
            for t in stage.weights.tensors.values()
        }
        taken = sum((t.node.src[0].arg if t.node.src else t.buffer).nbytes for t in copied.values())
        assert taken <= size.weights <= 1.1 * taken + (1 << 16) * len(copied)
        assert size.cache == stage.cache.nbytes
        assert stage.adapters is not None
        assert size.adapters == sum(b.nbytes for b in stage.adapters.buffers.values())
        arenas = sum(
            p.arena.nbytes + sum(root.buffer.nbytes for root in p.roots)
            for p in stage.programs.values()
        )
        assert arenas <= size.programs <= 50 * arenas


def test_estimates_follow_context_slots_format_and_rank() -> None:
    layers = range(36)
    base = request().of(layers)
    assert 4.0 * GB < base.weights < 4.6 * GB
    assert request(context=8192).of(layers).cache == 2 * base.cache
    assert request(form="q4").of(layers).weights < 0.6 * base.weights
    ranks = [dataclasses.replace(request(), rank=r).of(layers).adapters for r in (16, 32)]
    assert ranks[1] == 2 * ranks[0]
    host = request().of(layers, host=True)  # where memory counts when it is touched
    assert host.cache * 9 == base.cache and host.weights == base.weights


def test_experts_count_and_their_layers_have_smaller_adapters() -> None:
    mixed = request(MIXED)
    size = mixed.of(range(48))
    assert 30.5e9 < MIXED.parameters < 30.6e9
    assert 1.06 < size.weights / MIXED.parameters < 1.08
    dense = dataclasses.replace(
        MIXED, layers=tuple(dataclasses.replace(each, sparse=False) for each in MIXED.layers)
    )
    assert size.adapters < 0.7 * request(dense).of(range(48)).adapters
    # A matrix of a layer's experts is one piece.
    assert mixed.largest(range(1, 2)) == 128 * 768 * 2048 * 34 // 32


def test_programs_of_mixtures_need_room_for_their_blocks() -> None:
    assert MIXED.experts is not None
    few = dataclasses.replace(MIXED, experts=dataclasses.replace(MIXED.experts, per_token=1))
    sizes = [request(config).of(range(1)).programs for config in (MIXED, few)]
    assert sizes[0] > 1.5 * sizes[1]


@pytest.mark.parametrize("dense", [range(6), range(42, 48), range(0, 48, 2)])
def test_layers_that_differ_are_shared_by_what_they_take(dense: range) -> None:
    config = dataclasses.replace(
        MIXED,
        layers=tuple(
            dataclasses.replace(each, sparse=i not in dense) for i, each in enumerate(MIXED.layers)
        ),
    )
    asked = request(config)
    whole = asked.of(range(48)).total / GB
    assert of(placed(asked, room("x", 1.01 * whole))) == {"x": 48}
    found = placed(asked, room("x", 0.6 * whole), room("y", 0.6 * whole))
    assert len(found.portions) == 2
    # Also where only the exact sizes of layers show that it fits.
    tight = placed(asked, room("x", 0.55 * whole), room("y", 0.55 * whole))
    assert len(tight.portions) == 2
    with pytest.raises(OutOfDeviceMemoryError):
        placed(asked, room("x", 0.48 * whole), room("y", 0.48 * whole))


# Plans


def test_a_model_that_fits_goes_to_one_device() -> None:
    assert of(placed(request(), room("x", 24), room("y", 24))) == {"x": 36}
    assert of(placed(request(), room("x", 4), room("y", 24))) == {"y": 36}


def test_layers_are_shared_in_proportion_to_free_memory() -> None:
    asked = request(form="bf16")  # about 8 GB, keys and values 5.4 GB
    found = of(placed(asked, room("x", 7), room("y", 14)))
    assert list(found) == ["x", "y"]
    assert 0.3 < found["x"] / found["y"] < 0.7
    same = of(placed(asked, room("x", 11), room("y", 11)))
    assert abs(same["x"] - same["y"]) <= 6  # embedding and head are elsewhere
    # As few as do it, and those with the most memory.
    assert list(of(placed(asked, room("x", 9), room("z", 4), room("y", 12)))) == ["x", "y"]
    assert len(of(placed(asked, *(room(f"d{i}", 5.5) for i in range(5))))) == 4


@pytest.mark.parametrize("seed", range(40))
def test_plans_fit_or_are_refused(seed: int) -> None:
    import random

    dice = random.Random(seed)
    asked = request(form=dice.choice(["bf16", "q8", "q4"]), context=dice.choice([512, 4096]))
    rooms = [room(f"d{i}", dice.uniform(0.5, 10)) for i in range(dice.randint(1, 5))]
    try:
        placed(asked, *rooms)
    except OutOfDeviceMemoryError as error:
        assert all(r.device.name in str(error) for r in rooms)


def test_shares_are_whole_and_within_their_bounds() -> None:
    assert in_proportion(36, [10, 40]) == [7, 29]
    assert in_proportion(3, [1, 100]) == [1, 2]
    assert in_proportion(4, [1, 1, 1, 1]) == [1, 1, 1, 1]
    assert sum(in_proportion(36, [12, 12, 13])) == 36


def test_what_fits_nowhere_is_refused_with_numbers_and_help() -> None:
    with pytest.raises(OutOfDeviceMemoryError) as caught:
        plan(request(), Choice((room("cl:0", 10),)))
    text = str(caught.value)
    assert "4.27 GB" in text and "card cl:0" in text and "10.00 GB free" in text
    assert "--type q4" in text and "--context" in text and "another --device" in text
    # What it says helps.
    context = int(text.partition("--context ")[2].partition(")")[0])
    assert of(placed(request(context=context), room("cl:0", 10))) == {"cl:0": 36}
    assert of(placed(request(form="q4"), room("cl:0", 10))) == {"cl:0": 36}
    assert caught.value.status == 503
    with pytest.raises(OutOfDeviceMemoryError) as caught:
        plan(request(), Choice((room("cl:0", 0.2), room("cl:1", 0.3))))
    assert "--type" not in str(caught.value) and "further devices" in str(caught.value)


def test_one_piece_must_not_be_larger_than_the_driver_allows() -> None:
    asked = request(form="f32")  # an embedding of 1.56 GB
    assert placed(asked, room("x", 40))
    with pytest.raises(OutOfDeviceMemoryError, match="in one piece"):
        plan(asked, Choice((room("x", 40, largest=GB),)))


def test_only_an_automatic_choice_goes_elsewhere_and_says_so() -> None:
    small = (room("cl:0", 1),)
    host = Room(HOST, "the CPU", 64 * GB)
    found = plan(request(), Choice(small, "auto: cl:0", automatic=True), host)
    assert found.device == "cpu"
    assert "1.00 GB free" in found.reason and "needs" in found.reason
    assert found.table()[0] == found.reason
    with pytest.raises(OutOfDeviceMemoryError):
        plan(request(), Choice(small), host)


def test_training_uses_every_device_that_holds_the_base() -> None:
    rooms = room("a", 12), room("b", 24), room("c", 2)
    assert placed(request(), *rooms).training == ("a", "b")
    spread = placed(request(form="bf16"), room("a", 9), room("b", 9))
    assert spread.training == ("cpu",)
    assert spread.table()[-1].startswith("training: cpu, because")


def test_training_leaves_out_what_allows_no_piece_of_that_size() -> None:
    small = dataclasses.replace(room("b", 24), largest=100_000_000)
    assert placed(request(), room("a", 12), small).training == ("a",)


def test_memory_of_the_host_is_planned_once() -> None:
    wanted = request(form="bf16")
    own = room("a", 10), room("b", 10)
    assert len(placed(wanted, *own).portions) == 2
    shared = [dataclasses.replace(each, unified=True) for each in own]
    with pytest.raises(OutOfDeviceMemoryError):
        placed(wanted, *shared)


def test_budgets_that_the_host_has_room_for_are_not_cut_again() -> None:
    wanted = request(form="bf16")
    rooms = [dataclasses.replace(room(n, 10), unified=True, budgeted=True) for n in "ab"]
    plenty = [dataclasses.replace(each, pool=int(24 * GB)) for each in rooms]
    assert len(placed(wanted, *plenty).portions) == 2
    scarce = [dataclasses.replace(each, pool=int(11 * GB)) for each in rooms]
    with pytest.raises(OutOfDeviceMemoryError):
        placed(wanted, *scarce)


def test_a_budget_that_is_too_small_is_said_to_be_one() -> None:
    with pytest.raises(
        OutOfDeviceMemoryError, match=r"within model\.memory.*a larger model\.memory"
    ):
        placed(request(), dataclasses.replace(room("a", 1), budgeted=True))


# Choices


@dataclasses.dataclass
class Entry:
    """A device as OpenCL lists it."""

    name: str
    title: str
    kind: str = "gpu"
    memory: int = 8 * GB
    unified: bool = False
    refusal: str = ""


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `device_named` gives for a name: a device, or an error that is raised."""
    found: dict[str, Any] = {}

    def named(name: str) -> Any:
        device = found.get(name, HOST if name == "cpu" else None)
        if device is None or isinstance(device, Exception):
            raise device or DeviceError(f"there is no device {name!r}")
        return device

    monkeypatch.setattr(devices, "device_named", named)
    return found


class Opened(Card):
    """A card with memory."""

    free_bytes = 8 * GB
    budget = 8 * GB
    entry: Any = None


def chosen(entries: list[Entry], cards: dict[str, Any]) -> Choice:
    for entry in entries:
        opened = cards.setdefault(entry.name, Opened(entry.name))
        if isinstance(opened, Opened):
            opened.entry = entry
    return choose("auto", 0, lambda: entries)


def names(choice: Choice) -> list[str]:
    return [r.device.name for r in choice.rooms]


def test_auto_takes_the_best_gpus(cards: dict[str, Any]) -> None:
    inside = Entry("cl:0", "small inside", memory=32 * GB, unified=True)
    card, large = Entry("cl:1", "card"), Entry("cl:2", "large card", memory=24 * GB)
    choice = chosen([inside, card, large], cards)
    assert names(choice) == ["cl:2", "cl:1"]
    assert "large card" in choice.reason and choice.automatic
    assert names(chosen([inside], cards)) == ["cl:0"]


def test_auto_says_why_a_device_is_not_used(cards: dict[str, Any]) -> None:
    cards["cl:0"] = DeviceError("fma is wrong")
    bad, good = Entry("cl:0", "broken card"), Entry("cl:1", "card")
    refused = Entry("", "old card", refusal="its driver is too old")
    choice = chosen([bad, good, refused], cards)
    assert names(choice) == ["cl:1"]
    assert "fma is wrong" in choice.reason and "its driver is too old" in choice.reason
    choice = chosen([bad, refused], cards)
    assert names(choice) == ["cpu"]
    assert "the CPU, because" in choice.reason and "fma is wrong" in choice.reason


def test_auto_leaves_opencl_on_the_cpu_alone(cards: dict[str, Any]) -> None:
    choice = chosen([Entry("cl:0", "a CPU", kind="cpu")], cards)
    assert names(choice) == ["cpu"] and "cl:0" in choice.reason
    assert names(choose("cl:0")) == ["cl:0"]  # unless it is named

    def nothing() -> list[Entry]:
        raise DeviceError("pyopencl is not installed")

    choice = choose("auto", 0, nothing)
    assert names(choice) == ["cpu"] and "pyopencl is not installed" in choice.reason


def test_a_name_is_that_device_or_an_error(cards: dict[str, Any]) -> None:
    with pytest.raises(DeviceError, match="cl:7"):
        choose("cl:7")
    cards["cl:0"] = Opened("cl:0")
    assert names(choose("cl:0, cpu")) == ["cl:0", "cpu"]
    with pytest.raises(DeviceError, match="cl:1"):
        choose("cl:0,cl:1")
    with pytest.raises(ConfigError, match="twice"):
        choose("cl:0,cl:0")


def test_what_has_no_memory_of_its_own_has_what_the_host_has(
    cards: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_host_free", lambda: 3 * GB)
    for unified, free in ((False, 8 * GB), (True, 3 * GB)):
        cards["cl:0"] = Opened("cl:0")
        cards["cl:0"].entry = Entry("cl:0", "inside", unified=unified)
        (found,) = choose("cl:0").rooms
        assert (found.free, found.shared) == (free, unified)


def test_a_job_runs_on_one_device(cards: dict[str, Any]) -> None:
    cards["cl:0"] = Opened("cl:0")
    with devices.computing_on("cl:0") as device:
        assert device.name == "cl:0"
    with pytest.raises(ConfigError, match="one device"), devices.computing_on("cl:0,cpu"):
        pass


def test_a_budget_is_what_a_device_has(cards: dict[str, Any], tmp_path: Path) -> None:
    cards["cl:0"] = Opened("cl:0")
    choose("cl:0", memory=1000)
    assert cards["cl:0"].budget == 1000 << 20
    free = room_of(HOST, 100).free
    assert free is not None and free <= 100 << 20


# Whole models


def test_a_budget_below_the_model_is_refused_before_loading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from homebox.model.weights import packed_weights

    packed: list[Any] = []
    pack = packed_weights.pack_model
    monkeypatch.setattr(
        packed_weights, "pack_model", lambda *given: packed.append(given) or pack(*given)
    )
    with pytest.raises(OutOfDeviceMemoryError, match=r"needs .* MB.*what would help") as caught:
        load("tiny", memory=8)
    assert "8.4 MB free" in str(caught.value)
    assert not packed
    assert load("tiny", context=64, slots=1, memory=2000).placement is not None  # the control
    assert packed


def test_a_model_on_another_device_says_the_same() -> None:
    one, other = (load("tiny", context=128, slots=1, device=d) for d in ("cpu", "cpu:1"))
    assert one.placement is not None and other.placement is not None
    assert (one.placement.device, other.placement.device) == ("cpu", "cpu:1")
    ids = ids_of(20).tolist()
    assert one.logits(ids).tobytes() == other.logits(ids).tobytes()
    (device,) = other.training_devices()
    tensors = other.tensors_on(device)
    assert {t.buffer.device.name for t in tensors.values()} == {"cpu:1"}
    other.forget_copies()
    assert other.tensors_on(device) is not tensors
