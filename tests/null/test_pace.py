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
    assert told(Pace(0.06), {16: 0.4, 64: 0.9, 256: 3.0}) == [64, 16, 16, 16]  # there is no less


def test_a_longer_chunk_is_taken_where_it_reads_so_much_faster() -> None:
    assert told(Pace(0.06), {16: 0.04, 64: 0.09, 256: 0.3}) == [64, 64, 64, 64]
    # Never longer than twice the time.
    assert told(Pace(0.06), {16: 0.06, 64: 0.13, 256: 0.3}) == [64, 16, 16, 16]


def test_the_first_time_of_a_size_may_be_that_of_its_compilation() -> None:
    pace, transformer = Pace(0.06), Sizes()
    assert pace.most(transformer) == 64  # type: ignore[arg-type]
    pace.note(64, 2.0)
    quick = {16: 0.04, 64: 0.09, 256: 0.3}
    assert told(pace, quick, 6) == [16, 64, 64, 64, 64, 64]


def test_chunks_follow_the_machine() -> None:
    quick = {16: 0.007, 64: 0.016, 256: 0.055}
    slow = {size: 6 * seconds for size, seconds in quick.items()}
    pace = Pace(0.06)
    assert told(pace, quick)[-1] == 256
    assert told(pace, slow)[1:] == [64, 64, 64]
    assert told(pace, {size: 2 * seconds for size, seconds in slow.items()})[-1] == 16
    assert told(pace, quick)[-1] == 256
