"""Sums of loops keep their order, also where a compiler would rather add in lanes."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from homebox.engine.codegen import opencl
from homebox.engine.codegen.linear import Builder, Kernel
from homebox.engine.codegen.opencl_prelude import IN_ORDER
from homebox.engine.graph import dtype as dt
from homebox.engine.opencl.probe_sources import STRICT, standard_probes
from homebox.engine.opencl.probes import place_of, probe, probe_place
from tests.opencl.both import checker

if TYPE_CHECKING:
    from homebox.engine.opencl.platform import Found

COLUMNS, LENGTH, GROUP = 70, 512, 64


def column_sums() -> Kernel:
    """Return a kernel with one work-item for each column, those beyond the last under a guard."""
    b = Builder()
    given, found = b.param(dt.f32, LENGTH * COLUMNS, False), b.param(dt.f32, COLUMNS, True)
    group, local = (b.emit(op, dt.i64, 1, (), 0) for op in ("group", "local"))
    column = b.add(b.mul(group, b.int(GROUP)), local)
    with b.when(b.alu("lt", column, b.int(COLUMNS))):
        total = b.reg(b.const(0.0, dt.f32))
        with b.loop(b.int(0), b.int(LENGTH)) as k:
            value = b.load(given, b.add(b.mul(k, b.int(COLUMNS)), column))
            b.set(total, b.alu("add", b.get(total), value))
        b.store(found, column, b.get(total))
    return b.kernel((GROUP,))


def test_work_items_beyond_whole_vectors_add_in_order(
    cl_entry: "Found", monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).standard_normal((LENGTH, COLUMNS)).astype(np.float32)
    buffers: list[Any] = [values, np.zeros(COLUMNS, np.float32)]
    check = checker(cl_entry)
    _, sums = check(column_sums(), buffers, (2,))
    wanted = np.zeros(COLUMNS, np.float32)
    for row in values:
        wanted = wanted + row
    np.testing.assert_array_equal(sums, wanted)
    if "Intel" in cl_entry.platform:  # the control: this compiler does reorder
        monkeypatch.setattr(opencl, "IN_ORDER", "")
        with pytest.raises(AssertionError):
            check(column_sums(), buffers, (2,))


def test_only_loops_of_floats_are_marked() -> None:
    from homebox.engine.codegen.opencl import render
    from homebox.engine.simt.target import Simt

    lines = render(column_sums(), "entry", Simt()).splitlines()
    (at,) = [i for i, line in enumerate(lines) if line == IN_ORDER]
    assert lines[at + 1].strip().startswith("for (")
    b = Builder()
    given, found = b.param(dt.i32, 8, False), b.param(dt.i32, 8, True)
    with b.loop(b.int(0), b.int(8)) as i:
        b.store(found, i, b.load(given, i))
    assert IN_ORDER not in render(b.kernel((16,)), "entry", Simt())


def test_a_driver_that_reorders_is_found_out(
    cl_entry: "Found", monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOMEBOX_CACHE_DIR", str(tmp_path))
    assert "order" in STRICT
    (asked,) = (each for each in standard_probes() if each.family == "order")
    place = place_of(cl_entry.device)
    assert probe_place(place, [asked]).passed("order")
    # What a driver computes that adds from the other end.
    turned = asked.source.replace(f"{COLUMNS} * k", f"{COLUMNS} * (511 - k)", 1)
    assert turned != asked.source
    found = probe_place(place, [dataclasses.replace(asked, source=turned)])
    (refused,) = found.refusals()
    assert refused.name == "sums of loops are in order" and refused.suspicious
    assert not found.strict
    if "Intel" in cl_entry.platform:  # and this one does it by itself, if nothing forbids it
        free = dataclasses.replace(asked, source=asked.source.replace(IN_ORDER, ""))
        assert not probe_place(place, [free]).passed("order")


def test_strictness_needs_the_order(cl_entry: "Found") -> None:
    found = probe(cl_entry.device)
    assert found.strict
    without = [
        dataclasses.replace(each, passed=each.passed and each.family != "order")
        for each in found.results
    ]
    assert not dataclasses.replace(found, results=tuple(without)).strict
