"""Rotary tables and the exponential against decimal arithmetic."""

import hashlib
import random
from decimal import Decimal, localcontext

import numpy as np
import pytest

from homebox.model import strictmath
from homebox.model.config import Rope
from homebox.model.decoder.rope import inverse_frequencies, rope_tables


def exact_cos_sin(angle: float) -> tuple[Decimal, Decimal]:
    """Return (cos, sin) by halving the angle 30 times and doubling back; needs no pi."""
    with localcontext(prec=70):
        small = Decimal(angle) / (1 << 30)
        sine = small - small**3 / 6 + small**5 / 120 - small**7 / 5040 + small**9 / 362880
        cosine = 1 - small**2 / 2 + small**4 / 24 - small**6 / 720 + small**8 / 40320
        for _ in range(30):
            cosine, sine = cosine * cosine - sine * sine, 2 * sine * cosine
        return cosine, sine


def is_nearest(found: np.float32, exact: Decimal) -> bool:
    with localcontext(prec=70):
        error = abs(Decimal(float(found)) - exact)
        neighbours = (np.nextafter(found, np.float32(side)) for side in (-2, 2))
        return all(error <= abs(Decimal(float(other)) - exact) for other in neighbours)


def angles() -> list[np.float32]:
    dice = random.Random(4)
    values = [dice.uniform(0, 70_000) for _ in range(300)]
    values += [dice.uniform(-7, 7) for _ in range(300)]
    values += [dice.randrange(65_536) * 1.5707963 for _ in range(200)]  # near the zeros
    values += [0.0, -0.0, 1e-30, 2.0**24, 65_535.0]
    return [np.float32(value) for value in values]


def test_cos_and_sin_are_correctly_rounded() -> None:
    values = np.array(angles(), dtype=np.float32)
    cosines, sines = strictmath.cos_sin(values)
    for angle, cosine, sine in zip(values, cosines, sines):
        exact = exact_cos_sin(float(angle))
        assert is_nearest(cosine, exact[0])
        assert is_nearest(sine, exact[1])


def test_control_a_float32_cosine_would_be_noticed() -> None:
    values = np.array(angles(), dtype=np.float32)
    with np.errstate(all="ignore"):
        crude = (1 - values.astype(np.float32) ** 2 / 2).astype(np.float32)
    assert not all(
        is_nearest(found, exact_cos_sin(float(angle))[0]) for angle, found in zip(values, crude)
    )


def test_a_value_on_the_boundary_is_decided_by_decimals(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    decimal = strictmath._decimal

    def counted(function: str, angle: float) -> Decimal:
        asked.append(angle)
        return decimal(function, angle)

    monkeypatch.setattr(strictmath, "_decimal", counted)
    for angle in angles()[:20]:
        nearest = strictmath.cos_sin(np.array([angle]))[0][0]
        neighbour = np.nextafter(nearest, np.float32(-2))
        boundary = np.array([(float(nearest) + float(neighbour)) / 2])
        asked.clear()
        assert strictmath._round(boundary, np.array([angle]), "cos")[0] == nearest
        assert asked == [float(angle)]


def test_exp_is_within_two_units() -> None:
    dice = random.Random(6)
    values = np.array([dice.uniform(-700, 0) for _ in range(500)] + [0.0, -0.5, 1.0, -1e-18])
    with localcontext(prec=40):
        for value, found in zip(values, strictmath.exp(values)):
            exact = Decimal(float(value)).exp()
            assert abs(Decimal(float(found)) - exact) <= 2 * Decimal(float(np.spacing(found)))
    np.testing.assert_array_equal(strictmath.exp(np.array([-709.0, -1e9])), [0.0, 0.0])


def test_frequencies_are_correctly_rounded() -> None:
    for dim, theta in ((8, 10_000.0), (32, 10_000.0), (128, 1e6), (6, 500.0)):
        found = inverse_frequencies(Rope(theta, dim), 100)
        assert found.shape == (dim // 2,)
        for index, value in enumerate(found):
            with localcontext(prec=70):
                exact = Decimal(theta) ** (Decimal(-2 * index) / dim)
            assert is_nearest(value, exact)


def test_tables_hold_the_angles_of_every_position() -> None:
    cosines, sines = rope_tables(Rope(10_000.0, 8), 50)
    assert cosines.shape == sines.shape == (50, 4)
    assert cosines.dtype == sines.dtype == np.float32
    angle = np.float32(37) * inverse_frequencies(Rope(10_000.0, 8), 50)[1]
    exact = exact_cos_sin(float(angle))
    assert is_nearest(cosines[37, 1], exact[0])
    assert is_nearest(sines[37, 1], exact[1])
    np.testing.assert_array_equal(cosines[0], 1)
    np.testing.assert_array_equal(sines[0], 0)


def test_tables_have_recorded_bits() -> None:
    cosines, sines = rope_tables(Rope(10_000.0, 32), 8192)
    digest = hashlib.sha256(cosines.tobytes() + sines.tobytes()).hexdigest()
    assert digest == RECORDED


RECORDED = "9305b605595c1b9909cd9cd85a52185542d35efde554b35ddc9c4910d1fe2810"


def test_angles_out_of_range_are_refused() -> None:
    for value in (np.inf, np.nan, 2.0**25):
        with pytest.raises(ValueError, match="angles"):
            strictmath.cos_sin(np.array([value], dtype=np.float32))
