"""What homebox wants to reach, as ratios to peers and shares of the machine's roof."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SMALL, LARGE = "smol135", "qwen06"  # 135M parameters, Llama; 0.6B, Qwen3
TRAINING_SHAPES = ("1x512", "4x256")


@dataclass(frozen=True, slots=True)
class Key:
    """Whose figure it is, on which model, with which numbers, of what."""

    engine: str
    model: str
    variant: str
    metric: str
    shape: str | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """A median over some rounds; `percent` is the share of the roof, where there is one."""

    value: float
    unit: str
    rounds: int
    percent: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """At least `least` times the best of some peers; or, without peers, percent of the roof.

    For seconds and memory the ratio is the peer's figure over ours, so more is always better.
    `variant` "" is the best of ours.
    """

    model: str
    metric: str
    variant: str
    least: float
    peers: tuple[str, ...] = ()
    shape: str | None = None
    same: bool = True  # only peers of the same variant


def _decode(model: str, metric: str, q8: float, q4: float) -> list[Target]:
    wanted = {"q8": q8, "q4": q4, "bf16": 1.0}
    return [Target(model, metric, kind, least, ("llama.cpp",)) for kind, least in wanted.items()]


def _all() -> Iterable[Target]:
    yield from _decode(LARGE, "decode_ctx0", 1.4, 1.5)
    yield from _decode(LARGE, "decode_ctx2000", 2.0, 2.5)
    yield from _decode(LARGE, "decode_x4", 2.5, 2.5)
    yield from _decode(SMALL, "decode_ctx0", 1.6, 2.2)
    yield from _decode(SMALL, "decode_ctx2000", 2.5, 2.5)
    yield from _decode(SMALL, "decode_x4", 2.5, 2.5)
    for model in (LARGE, SMALL):
        yield Target(model, "prefill_512", "", 2.0, ("llama.cpp", "torch"), same=False)
        for shape in TRAINING_SHAPES:
            strict = 2.5 if model == LARGE else 2.2
            yield Target(model, "lora_step", "bf16", 2.0, ("torch+peft",), shape)
            yield Target(model, "lora_step", "f32", strict, ("torch+peft",), shape)
            for kind in ("bf16", "f32"):
                yield Target(model, "lora_peak_rss", kind, 2.0, ("torch+peft",), shape)
        for kind in ("q8", "q4", "bf16"):
            yield Target(model, "load_to_first_token", kind, 1.0, ("llama.cpp",))
            yield Target(model, "peak_rss", kind, 1 / 1.1, ("llama.cpp",))
    for kind, share in (("q8", 50.0), ("q4", 50.0), ("bf16", 65.0)):
        yield Target(LARGE, "decode_ctx0", kind, 88.0)
        for model in (LARGE, SMALL):
            yield Target(model, "prefill_512", kind, share)
    for model in (LARGE, SMALL):
        for shape in TRAINING_SHAPES:
            yield Target(model, "lora_step", "f32", 60.0, (), shape)


TARGETS = tuple(_all())


def judged(target: Target, figures: Mapping[Key, Figure]) -> list[str]:
    """Return a line on whether a target is reached; nothing where we were not measured."""
    ours = _best(target, figures, ("homebox",), target.variant)
    if ours is None:
        return []
    name = " ".join(
        filter(None, [target.model, target.metric, target.shape, target.variant or ours[0].variant])
    )
    if not target.peers:
        if ours[1].percent is None:
            return []
        return [_line(name, ours[1].percent, target.least, "% of roof", f"{ours[1].percent:.1f} %")]
    peer = _best(target, figures, target.peers, target.variant if target.same else "")
    if peer is None:
        return [f"{name}: no figure of {' or '.join(target.peers)} to compare with"]
    key, theirs = peer
    ratio = ours[1].value / theirs.value
    if not _more_is_better(ours[1].unit):
        ratio = 1 / ratio
    figures_of = (
        f"{ours[1].value:.2f} {ours[1].unit}, {key.engine} {key.variant} {theirs.value:.2f}"
    )
    return [_line(name, ratio, target.least, "x", figures_of)]


def _line(name: str, found: float, least: float, unit: str, figures: str) -> str:
    verdict = "reached" if found >= least else "MISSED" if found < 0.85 * least else "missed"
    return f"{name}: {found:.2f} {unit}, wanted {least:.2f}: {verdict} ({figures})"


def _more_is_better(unit: str) -> bool:
    return unit not in ("s", "MiB")


def _best(
    target: Target, figures: Mapping[Key, Figure], engines: tuple[str, ...], variant: str
) -> tuple[Key, Figure] | None:
    """Return the best figure of some engines; `variant` "" takes all of them."""
    fitting = [
        (key, figure)
        for key, figure in figures.items()
        if key.engine in engines
        and (key.model, key.metric, key.shape) == (target.model, target.metric, target.shape)
        and variant in ("", key.variant)
    ]
    if not fitting:
        return None
    sign = 1 if _more_is_better(fitting[0][1].unit) else -1
    return max(fitting, key=lambda pair: sign * pair[1].value)
