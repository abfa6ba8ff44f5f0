"""Draws a program as one HTML page: a box per launch, what it reads and writes, code and times.

The page needs no network and no other file. Launches stand in their order; stretches that repeat,
as a model's layers do, become groups; equal kernels have one colour. A click on a box shows all of
it. Invariant: text from a program never becomes markup or script; boxes are there without script.
"""

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from homebox.engine.codegen.cache import digest
from homebox.engine.graph.ops import Node, Op, memory_of, numel_max
from homebox.engine.inspection.profiled_run import ProfiledRun, title_of
from homebox.engine.inspection.roof import Roof
from homebox.engine.runtime.plan import reads_of

TEMPLATE = Path(__file__).with_name("graph_page.html")
SHORTEST_BLOCK = 3  # launches that repeat: fewer are no layer


@dataclass(frozen=True, slots=True)
class Group:
    """Launches `start` to `stop` (exclusive) under one heading."""

    title: str
    start: int
    stop: int


def groups(names: Sequence[str]) -> list[Group]:
    """Cut a launch list where kernels repeat: the longest repetition first, then what is left."""
    return _groups(names, 0)


def _groups(names: Sequence[str], offset: int) -> list[Group]:
    if not names:
        return []
    found = repetition(names)
    if found is None:
        first, last = offset, offset + len(names) - 1
        title = f"launch {first}" if first == last else f"launches {first} to {last}"
        return [Group(title, first, last + 1)]
    start, period, times = found
    blocks = [
        Group(
            f"block {i + 1} of {times}",
            offset + start + i * period,
            offset + start + (i + 1) * period,
        )
        for i in range(times)
    ]
    end = start + period * times
    return [*_groups(names[:start], offset), *blocks, *_groups(names[end:], offset + end)]


def repetition(names: Sequence[str]) -> tuple[int, int, int] | None:
    """Return (start, period, times) of the repetition that covers most; None if there is none."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    line = np.array([numbers[name] for name in names])
    best: tuple[int, int, int] | None = None
    for period in range(SHORTEST_BLOCK, len(line) // 2 + 1):
        edges = np.flatnonzero(np.diff(np.r_[0, line[:-period] == line[period:], 0]))
        starts, lengths = edges[::2], edges[1::2] - edges[::2]
        if not len(lengths):
            continue
        longest = int(lengths.argmax())
        times = int(lengths[longest]) // period + 1
        if times > 1 and (best is None or times * period > best[1] * best[2]):
            best = int(starts[longest]), period, times
    return best


def page(run: ProfiledRun, roof: Roof) -> str:
    """Return the page of one profiled run."""
    rows = _launches(run, roof)
    names = [name for _, _, name in run.kernels]
    return fill(
        TEMPLATE.read_text(encoding="utf-8"),
        {
            "TITLE": html.escape(f"homebox: {run.name}"),
            "SUMMARY": html.escape(_summary(run, roof)),
            "BOXES": "\n".join(_sections(groups(names), rows)),
            "TABLE": _table(rows),
            "DATA": script_json({"launches": rows, "sources": _sources(run)}),
        },
    )


def fill(template: str, parts: Mapping[str, str]) -> str:
    """Put parts in the places of the template's {{NAMES}}, in one pass over the template."""
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda match: parts[match[1]], template)


def script_json(value: object) -> str:
    """Return JSON that cannot end the script element around it."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _summary(run: ProfiledRun, roof: Roof) -> str:
    seconds = max(int(run.nanoseconds.sum()), 1) / 1e9
    least = sum(d.least_seconds(roof) for d in run.demands)
    moved = sum(d.moved for d in run.demands)
    sizes = ", ".join(f"{name} = {value}" for name, value in run.values.items())
    return (
        f"{len(run.kernels)} launches of {len({n for _, _, n in run.kernels})} "
        f"kernels in {seconds * 1e6:,.0f} us, {100 * least / seconds:.1f} % of the roof; "
        f"{moved / 1e6:,.1f} MB moved, {moved / seconds / 1e9:.1f} GB/s; "
        f"{run.arena / 1e6:,.1f} MB of temporaries. "
        f"Roof of {roof.threads} threads: {roof.read_gbs:.1f} GB/s, {roof.f32_gflops:,.0f} f32, "
        f"{roof.bf16_gflops:,.0f} bf16, {roof.int8_gops:,.0f} int8 GFLOP/s. {sizes}"
    )


def _sources(run: ProfiledRun) -> dict[str, str]:
    """Return the code of each kernel once, by its name."""
    found: dict[str, str] = {}
    for _, low, name in run.kernels:
        if name not in found:
            found[name] = run.source(low)
    return found


def _launches(run: ProfiledRun, roof: Roof) -> list[dict[str, Any]]:
    """Return what the page knows of each launch."""
    total = max(int(run.nanoseconds.sum()), 1)
    writer: dict[Node, int] = {}
    rows: list[dict[str, Any]] = []
    for i, (region, low, name) in enumerate(run.kernels):
        wanted, ns = run.demands[i], max(int(run.nanoseconds[i]), 1)
        owners = {memory_of(n) for n in reads_of(region, run.realised)}
        sources = sorted({writer[n] for n in owners if n in writer})
        for j in sources:
            rows[j]["to"].append(i)
        rows.append(
            {
                "title": title_of(region, low, name),
                "kernel": name,
                "us": ns / 1e3,
                "share": 100 * ns / total,
                "roof": 100e9 * wanted.least_seconds(roof) / ns,
                "gbs": wanted.moved / ns,
                "gflops": wanted.operations / ns,
                "kind": wanted.kind,
                "operations": wanted.operations,
                "from": sources,
                "to": [],
                "reads": [[_label(n, writer), count] for n, count in wanted.reads],
                "writes": [[_label(memory_of(region.root), {}), wanted.written]],
                "schedule": repr(low.schedule),
                "units": f"{_times(low.groups(run.values))} of at most {_times(low.most_groups())}",
                "root": repr(region.root)[:2000],
            }
        )
        writer |= {memory_of(n): i for n in region.written}
    return rows


def _label(n: Node, writer: Mapping[Node, int]) -> str:
    shape = "x".join(str(getattr(d, "name", d)) for d in n.shape) or "scalar"
    if n in writer:
        return f"result of launch {writer[n]}: {n.dtype} {shape}"
    if n.op is Op.BUFFER:
        kind = "frozen memory" if n.arg.frozen else "memory"
        return f"{kind} {n.dtype} {shape}, {numel_max(n.shape) * n.dtype.size / 1e6:.2f} MB"
    return f"{n.op.name.lower()} {n.dtype} {shape}"


# -- markup ---------------------------------------------------------------------------------------


def _sections(parts: list[Group], rows: list[dict[str, Any]]) -> list[str]:
    """Return a section for each group, with its boxes."""
    longest = max((row["us"] for row in rows), default=1.0)
    lines: list[str] = []
    for group in parts:
        inside = rows[group.start : group.stop]
        took = sum(row["us"] for row in inside)
        lines.append(
            f"<section><h2>{html.escape(group.title)} <small>{took:,.0f} us</small></h2><div>"
        )
        lines += [
            _box(group.start + i, row, 100 * row["us"] / longest) for i, row in enumerate(inside)
        ]
        lines.append("</div></section>")
    return lines


def _box(number: int, row: Mapping[str, Any], length: float) -> str:
    """Return a launch as a button whose bar is as long as its time."""
    _, what, shape, *_rest = row["title"].split(" ")
    return (
        f'<button class="box" id="l{number}" data-n="{number}" '
        f'data-find="{html.escape(row["title"].lower(), quote=True)}" '
        f'style="--hue:{hue(row["kernel"])};--length:{length:.1f}%">'
        f"<b>{number}</b> {html.escape(what)} <span>{html.escape(shape)}</span>"
        f"<i>{row['us']:,.1f} us, {row['roof']:.0f} %</i></button>"
    )


def hue(kernel: str) -> int:
    """Return a kernel's colour as an angle: the same for equal kernels, in every page."""
    return int(digest(kernel)[:8], 16) % 360


def _table(rows: list[dict[str, Any]]) -> str:
    """Return the kernels, the longest first, as rows of a table."""
    by_kernel: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_kernel.setdefault(row["title"], []).append(row)
    ordered = sorted(by_kernel.items(), key=lambda item: -sum(r["us"] for r in item[1]))
    lines = []
    for title, same in ordered:
        took = max(sum(r["us"] for r in same), 1e-9)
        least = sum(r["roof"] * r["us"] for r in same) / took
        lines.append(
            f'<tr data-find="{html.escape(title.lower(), quote=True)}" '
            f'style="--hue:{hue(same[0]["kernel"])}"><td>{html.escape(title)}</td>'
            f"<td>{len(same)}</td><td>{took:,.1f}</td><td>{least:.0f}</td></tr>"
        )
    return "\n".join(lines)


def _times(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))
