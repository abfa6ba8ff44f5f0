"""Distillation, opinions and the teacher on OpenCL devices: the bits of the processor."""

from dataclasses import replace
from typing import Any

import numpy as np

from homebox.engine.graph.device import HOST, Device
from homebox.engine.opencl.backend import OpenClDevice
from homebox.engine.runtime.stop_flag import StopFlag
from homebox.model.training.teacher import Asked, Teacher
from tests.opencl.test_whole_training import Moved, bits, trainer_on
from tests.unit.test_distillation import taught
from tests.unit.test_lora_gradients import CONFIG, Base, batch_of


def finished(steps: Any) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def test_distillation_has_the_gradients_of_the_cpu_to_the_bit(cl_device: OpenClDevice) -> None:
    base, batch = Base("bf16"), taught(batch_of())
    found = []
    for device in (HOST, cl_device):
        trainer = trainer_on(device, base, taught=True)
        found.append((trainer.accumulate(batch), bits(trainer.parameters.gradient())))
    assert found[0] == found[1]
    plain = replace(batch, teaching=None)  # the control: the teaching counts
    assert trainer.accumulate(plain)[0] != found[0][0][0]


def test_likelihoods_and_states_are_those_of_the_cpu(cl_device: OpenClDevice) -> None:
    base, batch = Base("f32"), batch_of()
    signed = replace(batch, weight=-batch.weight)
    scores, states = [], []
    for device in (HOST, cl_device):
        trainer = trainer_on(device, base)
        scores.append(finished(trainer.likelihoods(batch, StopFlag())).tobytes())
        finished(trainer.gather(signed, StopFlag()))
        trainer.step(batch_of(4), 1e-3)
        states.append(bits(trainer.state()))
        kept = trainer.state()
        wanted = trainer.step(batch_of(5), 1e-3)
        again = trainer_on(device, base)
        again.restore(kept)
        assert again.step(batch_of(5), 1e-3) == wanted
        assert bits(again.state()) == bits(trainer.state())
    assert scores[0] == scores[1] and states[0] == states[1]


def test_a_teacher_says_the_same_everywhere(cl_device: OpenClDevice) -> None:
    base = Base("bf16")
    rng = np.random.default_rng(5)
    documents = [
        Asked(tuple(int(i) for i in rng.integers(0, CONFIG.vocab_size, n)), (n - 3, n - 2))
        for n in (6, 20, 31)
    ]

    def said(device: Device) -> list[tuple[bytes, bytes]]:
        model: Any = base if device is HOST else Moved(base, device)
        teacher = Teacher(model, 32, device=device)
        opinions = finished(teacher.opinions(documents, StopFlag()))
        return [(o.ids.tobytes(), o.probabilities.tobytes()) for o in opinions]

    assert said(cl_device) == said(HOST)
