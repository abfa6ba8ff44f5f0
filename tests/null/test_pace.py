"""How much of a prompt is read at once while others wait for their tokens."""

from typing import Any

from homebox.model.generation.stepping import Pace


class Sizes:
    prefill_chunk, shared_chunk = 256, 64


def told(pace: Pace, seconds: dict[int, float], steps: int = 4) -> list[int]:
    """Return the sizes of chunks that take so long."""
    transformer: Any = Sizes()
    found = []
    for _ in range(steps):
        found.append(pace.most(transformer))
        pace.note(found[-1], seconds[found[-1]])
    return found


def test_chunks_are_as_large_as_time_allows() -> None:
    assert told(Pace(0.06), {16: 0.007, 64: 0.016, 256: 0.055}) == [64, 256, 256, 256]
    assert told(Pace(0.06), {16: 0.007, 64: 0.016, 256: 0.09}) == [64, 256, 64, 64]
    assert told(Pace(0.06), {16: 0.04, 64: 0.09, 256: 0.3}) == [64, 16, 16, 16]
    assert told(Pace(0.06), {16: 0.4, 64: 0.9, 256: 3.0}) == [64, 16, 16, 16]  # there is no less


def test_chunks_follow_the_machine() -> None:
    quick = {16: 0.007, 64: 0.016, 256: 0.055}
    slow = {size: 4 * seconds for size, seconds in quick.items()}
    pace = Pace(0.06)
    assert told(pace, quick)[-1] == 256
    assert told(pace, slow)[1:] == [16, 16, 16]
    assert told(pace, quick)[-1] == 256
