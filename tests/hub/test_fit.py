"""Type, context and conversations by the memory that is free."""

import pytest

from homebox.errors import ConfigError, OutOfDeviceMemoryError
from homebox.hub.fit import Asked, Fit, fit, fit_model
from homebox.model.model import PlannedLoad

BYTES = {"auto": 8, "q8": 8, "q4": 4, "bf16": 16}
PLANNED: PlannedLoad = None  # type: ignore[assignment]


def fitted(free: int, asked: Asked, most: int = 131_072) -> tuple[str, int, int]:
    """Fit a model of 1000 bytes a bit whose conversations take a byte a token."""

    def plan(kind: str, context: int, slots: int) -> PlannedLoad:
        need = 1000 * BYTES[kind] + context * slots
        if need > free:
            raise OutOfDeviceMemoryError(f"the model needs {need}; what would help: nothing")
        return PLANNED

    found: Fit = fit(asked, most, plan)
    assert bool(found.reason) == (
        fitted_best(asked, most) != (found.type, found.context, found.slots)
    )
    return found.type, found.context, found.slots


def fitted_best(asked: Asked, most: int) -> tuple[str, int, int]:
    return asked.type, asked.context or min(most, 32_768), asked.slots


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (10**9, ("auto", 32_768, 8)),
        (8000 + 32_768 * 8, ("auto", 32_768, 8)),
        (8000 + 32_768 * 4, ("auto", 32_768, 4)),
        (8000 + 32_768 * 2, ("auto", 32_768, 2)),
        (8000 + 32_768 * 2 - 1, ("auto", 16_384, 2)),
        (8000 + 16_384 * 2 - 1, ("q4", 16_384, 2)),
        (4000 + 16_384 * 2, ("q4", 16_384, 2)),
        (4000 + 16_384 * 2 - 1, ("auto", 8192, 2)),
        (4000 + 8192 * 2, ("q4", 8192, 2)),
        (4000 + 2048 * 2, ("q4", 2048, 2)),
    ],
)
def test_what_is_given_up_first(free: int, expected: tuple[str, int, int]) -> None:
    assert fitted(free, Asked()) == expected


def test_never_above_the_model_s_own_context() -> None:
    assert fitted(10**9, Asked(), most=8192) == ("auto", 8192, 8)
    assert fitted(10**9, Asked(), most=20_000) == ("auto", 20_000, 8)


def test_what_the_owner_says_stays() -> None:
    assert fitted(10**9, Asked("bf16", 4096, 1)) == ("bf16", 4096, 1)
    assert fitted(16_000 + 4096 * 2, Asked("bf16", 4096)) == ("bf16", 4096, 2)
    with pytest.raises(OutOfDeviceMemoryError, match="needs 24192"):
        fitted(16_000 + 4096 * 2 - 1, Asked("bf16", 4096))


def test_nothing_fits() -> None:
    with pytest.raises(OutOfDeviceMemoryError, match=f"needs {4000 + 2 * 2048}"):
        fitted(4000, Asked())


def test_a_real_model_by_its_plan() -> None:
    found = fit_model("tiny", Asked(), rank=8, device="cpu")
    text = "\n".join(found.lines())
    assert found.plan.packing.form.name == "f32", "small models keep their numbers"
    assert "context 32768 of the model's 65536" in text
    assert "cpu (the CPU): layers 0 to 5" in text
    less = fit_model("tiny", Asked(), rank=8, device="cpu", memory=60)
    assert (less.type, less.plan.packing.form.name) != (
        "auto",
        "f32",
    ) or less.context < found.context
    assert less.reason.startswith("not more, because the model needs")
    assert less.plan.placement.portions[0].bytes.total <= 60 << 20
    with pytest.raises(OutOfDeviceMemoryError):
        fit_model("tiny", Asked(), rank=8, device="cpu", memory=1)
    with pytest.raises(ConfigError, match="context must be"):
        fit_model("tiny", Asked(context=10**6), rank=8, device="cpu")
