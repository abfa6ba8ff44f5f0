"""What figures of a card mean: medians over rounds, what is reached, and the table of the page.

A figure of decoding is judged by the bandwidth that copying reaches on the same card, one of a
prompt or of training by PyTorch's in the same run. Invariant: only what was measured is judged, by
the wall, with the result read back.
"""

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homebox.errors import HomeboxError

DECODE = 0.70  # of the bandwidth of copying
PEER = 1.0  # of PyTorch's speed
HOPPER_PEER = 0.5  # there PyTorch uses matrix instructions that OpenCL does not reach
HOPPER = re.compile(r"\bG?H(100|200|800|20)\b")
BEGIN, END = "<!-- gpu figures -->", "<!-- end of gpu figures -->"
METRICS = {
    "prefill_512": "prompt of 512",
    "decode_ctx0": "decode, 8 tokens of context",
    "decode_ctx2000": "decode, 2,000 tokens of context",
    "lora_step": "LoRA step",
}


@dataclass(frozen=True)
class Card:
    """What was measured on, and when."""

    title: str
    driver: str
    platform: str
    date: str
    version: str  # of homebox
    copy_gbs: float
    gpu: bool = True  # False: OpenCL on a processor


@dataclass(frozen=True)
class Figure:
    """A metric of a model in a type: tokens a second, and what that moves and computes."""

    model: str
    type: str
    metric: str
    rate: float
    device_rate: float  # by the device's own events
    gbs: float
    tflops: float
    peer: float | None = None  # tokens a second of PyTorch in bf16

    @property
    def ratio(self) -> float | None:
        """How many times PyTorch's speed."""
        return self.rate / self.peer if self.peer else None


def figures(rows: Iterable[Mapping[str, Any]], peers: Iterable[Mapping[str, Any]]) -> list[Figure]:
    """Return the medians over all rounds, in the order of the first one."""
    theirs: dict[tuple[str, str], list[float]] = {}
    for row in peers:
        theirs.setdefault((row["model"], row["metric"]), []).append(row["value"])
    ours: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        ours.setdefault((row["model"], row["type"], row["metric"]), []).append(row)
    found = []
    for (model, form, metric), each in ours.items():
        seconds = statistics.median(row["seconds"] for row in each)
        by_events = statistics.median(row["device_seconds"] for row in each)
        first, peer = each[0], theirs.get((model, metric))
        found.append(
            Figure(
                model,
                form,
                metric,
                first["tokens"] / seconds,
                first["tokens"] / max(by_events, 1e-9),
                first["moved"] / seconds / 1e9,
                first["operations"] / seconds / 1e12,
                statistics.median(peer) if peer else None,
            )
        )
    return found


# -- judging --------------------------------------------------------------------------------------


def wanted_of_peer(card: Card) -> float:
    """Return how many times PyTorch's speed is wanted on a card."""
    return HOPPER_PEER if HOPPER.search(card.title) else PEER


def judged(found: Sequence[Figure], card: Card) -> list[str]:
    """Return a line for each figure: what is reached, what is wanted."""
    return [_judged(each, card) for each in found]


def _judged(each: Figure, card: Card) -> str:
    name = f"{each.model} {each.type}, {METRICS[each.metric]}"
    if each.metric.startswith("decode"):
        share = each.gbs / card.copy_gbs
        return (
            f"{name}: {each.gbs:,.1f} GB/s, {100 * share:.0f} % of what copying reaches, "
            f"wanted {100 * DECODE:.0f} %: {_verdict(share, DECODE)}"
        )
    if each.ratio is None:
        return f"{name}: not judged, because there is no figure of PyTorch"
    wanted = wanted_of_peer(card)
    return (
        f"{name}: {each.ratio:.2f} x PyTorch, wanted {wanted:.2f}: {_verdict(each.ratio, wanted)}"
    )


def _verdict(found: float, wanted: float) -> str:
    return "reached" if found >= wanted else "MISSED"


# -- the table ------------------------------------------------------------------------------------


def table(found: Sequence[Figure], card: Card, torch: str) -> list[str]:
    """Return the section of a card in Markdown; `torch` says which PyTorch, or why there is none.

    What ran on a processor is marked as a run for correctness.
    """
    lines = [f"### {card.title}", ""]
    if not card.gpu:
        lines += ["**OpenCL on a processor: a run for correctness, no figures of a GPU.**", ""]
    lines += [
        f"{card.date}, driver {card.driver} ({card.platform}), homebox {card.version}. Copying "
        f"reaches {card.copy_gbs:,.0f} GB/s, read and written. {torch}",
        "",
        "| model | metric | type | tokens/s | by events | GB/s | of copying | TFLOP/s | PyTorch "
        "| ratio |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(each, card) for each in found]
    if card.gpu:
        lines += ["", *(f"- {line}" for line in judged(found, card))]
    return [*lines, ""]


def _line(each: Figure, card: Card) -> str:
    memory = each.metric.startswith("decode")
    cells = [
        each.model,
        METRICS[each.metric],
        each.type,
        _number(each.rate),
        _number(each.device_rate),
        f"{each.gbs:,.1f}" if memory else "",
        f"{100 * each.gbs / card.copy_gbs:.0f} %" if memory else "",
        f"{each.tflops:,.2f}",
        "" if each.peer is None else _number(each.peer),
        "" if each.ratio is None else f"{each.ratio:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def write(path: Path, section: Sequence[str]) -> None:
    """Put a card's section between the page's two markers, in place of that card's earlier one.

    Sections of other cards stay. Raises HomeboxError if the page has no markers, in that order.
    """
    text = path.read_text("utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        raise HomeboxError(f"{path} needs a line {BEGIN} and after it a line {END}, each once")
    before, _, rest = text.partition(BEGIN)
    inside, _, after = rest.partition(END)
    kept = re.split(r"^(?=### )", inside, flags=re.MULTILINE)[1:]
    parts = {part.splitlines()[0]: part.strip() for part in kept}
    parts[section[0]] = "\n".join(section).strip()
    body = "\n\n".join(parts.values())
    path.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}", "utf-8")
