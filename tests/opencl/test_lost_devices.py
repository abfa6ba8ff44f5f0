"""A device that was lost and opened anew takes what it was allowed to take before."""

import gc

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import Buffer
from homebox.engine.opencl import backend
from homebox.engine.opencl.backend import OpenClDevice, open_device


def test_a_budget_outlives_the_device(cl_device: OpenClDevice) -> None:
    known = dict(backend._open)
    budget = cl_device.budget
    try:
        cl_device.budget = 50 << 20
        cl_device.lost = "the driver was reset"
        again = open_device(cl_device.name)
        assert again is not cl_device and again.budget == 50 << 20
        assert open_device(cl_device.name, 60 << 20) is again and again.budget == 60 << 20
        assert Buffer(16, dt.f32, device=again).read().tolist() == [0.0] * 16
    finally:
        cl_device.lost = ""
        cl_device.budget = budget
        backend._open.update(known)
        gc.collect()
