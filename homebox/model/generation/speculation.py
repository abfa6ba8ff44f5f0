"""Guesses the next tokens of an answer from what was said before, so that one pass checks several.

The one idea: agents repeat file contents, and grammars force whole words; so the tokens that
followed the longest recent repetition of the last ones (prompt lookup: Saxena 2023; Yang et al.,
arXiv 2304.04487), or that a guide knows, are taken in together with the newest one.
Invariant: a guess only decides what is computed. Tokens are chosen one after the other from the
logits that they would have had anyway, so answers are the same with and without guessing.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

MOST = 7  # guesses checked at once; with the newest token a full batch of a decode program
LEAST_MATCH = 2  # repeated tokens before a guess is made
SURE_MATCH = 8  # the same where a wrong guess costs others time
LONGEST_MATCH = 16  # and how many are compared, to find the longest
TRIED = 8  # earlier places that are compared
LONGEST_PAUSE = 64  # steps without a guess after many wrong ones


@dataclass
class Statistics:
    """How many tokens were guessed, and how many of them came."""

    drafted: int = 0
    accepted: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return {"drafted": self.drafted, "accepted": self.accepted}


@dataclass
class Speculation:
    """Whether the answers of a model guess ahead, and how that went."""

    on: bool = True
    statistics: Statistics = field(default_factory=Statistics)


class Repetitions:
    """Where each pair of neighbouring tokens came before: a hash of the latest place, and chains.

    One token costs one step, however many there are; a search looks at `TRIED` places at most.
    """

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._latest: dict[int, int] = {}  # pair -> the place of its second token
        self._before = array("i")  # place -> the place before with the same pair, -1: none
        self._ahead = 0  # from the latest match to the end; it may go on there

    def extend(self, ids: Sequence[int]) -> None:
        """Take more tokens in."""
        known, latest, before = self._ids, self._latest, self._before
        previous = known[-1] if known else -1
        place = len(known)
        for index in ids:
            pair = previous << 32 | index
            before.append(latest.get(pair, -1))
            latest[pair] = place
            previous = index
            place += 1
        known.extend(ids)

    def following(self, most: int, least: int = LEAST_MATCH) -> tuple[list[int], int]:
        """Return up to `most` tokens that followed the last ones before, and the match's length.

        The longest of the latest matches counts, of equal ones the latest; none if it is shorter
        than `least`. A match that overlaps the end goes on with what it guessed.
        """
        ids = self._ids
        found, length = -1, least - 1
        for place in self._places():
            same = self._common(place)
            if same > length:
                found, length = place, same
            if length >= LONGEST_MATCH:
                break
        if found < 0:
            return [], 0
        self._ahead = len(ids) - 1 - found
        out: list[int] = []
        for at in range(found + 1, found + 1 + most):
            out.append(ids[at] if at < len(ids) else out[at - len(ids)])
        return out, length

    def _places(self) -> Iterator[int]:
        """Yield where the last tokens may have come before, the likeliest place first."""
        end = len(self._ids) - 1
        if 0 < self._ahead < end:
            yield end - self._ahead
        place = self._before[end] if end >= 0 else -1
        for _ in range(TRIED):
            if place < 1:
                return
            yield place
            place = self._before[place]

    def _common(self, place: int) -> int:
        """Return how many tokens up to `place` are the same as the last ones."""
        ids, end = self._ids, len(self._ids) - 1
        count = 0
        while count < LONGEST_MATCH and count <= place and ids[place - count] == ids[end - count]:
            count += 1
        return count


class Drafter:
    """Guesses for one answer: more where guesses come true, few where they do not.

    `ids` is the list of the prompt and the answer so far, which the answer's owner extends.
    """

    def __init__(self, ids: list[int], statistics: Statistics) -> None:
        self._ids = ids
        self._statistics = statistics
        self._known = 0
        self._repetitions = Repetitions()
        self._length = 3
        self._least = LEAST_MATCH
        self._pause = 0  # of the next wrong guess
        self._skip = 0

    def propose(self, most: int, ahead: Sequence[int] = (), sure: bool = False) -> list[int]:
        """Return at most `most` guesses of what comes next; those of a guide (`ahead`) first.

        `sure`: only after a long repetition, as a wrong one costs others time.
        """
        if ahead:
            return list(ahead[:most])
        if self._skip:
            self._skip -= 1
            return []
        self._repetitions.extend(self._ids[self._known :])
        self._known = len(self._ids)
        least = SURE_MATCH if sure else self._least
        found, _ = self._repetitions.following(min(most, self._length), least)
        return found

    def settle(self, drafted: int, accepted: int, ahead: bool = False) -> None:
        """Hear how many of the guesses came."""
        self._statistics.drafted += drafted
        self._statistics.accepted += accepted
        if ahead:
            return  # says nothing about repetitions
        if accepted == drafted:
            self._length = min(MOST, 2 * self._length + 1)
            self._least, self._pause = LEAST_MATCH, 0
        elif accepted:
            self._length = accepted + 1
            self._pause //= 2
        else:
            self._length = max(1, self._length // 2)
            self._least = min(self._least + 1, 4)
            self._pause = min(max(2 * self._pause, 1), LONGEST_PAUSE)
            self._skip = self._pause
