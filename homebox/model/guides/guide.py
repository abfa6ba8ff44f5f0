"""The guide of one answer: free until something begins that has rules, and free again behind it.

The one idea: an answer is a row of stretches, each free, or ruled by a grammar, or forced; a
watcher that reads along says where calls and thoughts begin.
Invariant: a steering token comes only where a grammar or the free text allows it, and an answer
that wants a form or a call does not end before it is there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from homebox.model.generation.guide import Bits
from homebox.model.guides.segment import Segment
from homebox.model.guides.thinking import Budget
from homebox.model.guides.vocabulary import Vocabulary
from homebox.model.guides.watcher import Watcher
from homebox.model.tokenizer.base import StreamDecoder

OpensCall = Callable[[str, str], Segment | None]


@dataclass(slots=True, eq=False)
class Plan:
    """What holds for an answer.

    `begin` gives the stretches of which one must come (a form, calls), behind a thought or not.
    `call` gives the grammar of a call that the model opened by a mark, from what stands behind the
    mark: None while, or if, it is none.
    """

    begin: Callable[[bool], Sequence[Segment]] | None = None
    call: OpensCall | None = None
    parallel: bool = True
    free: Bits | None = None  # what may come where nothing rules
    thoughts: Bits | None = None  # the tokens that may open a thought before `begin`
    over: bool = False  # nothing may come any more


class AnswerGuide:
    """Guides one answer; see `Guide`."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        watcher: Watcher,
        decoder: StreamDecoder,
        plan: Plan,
        budget: Budget,
    ) -> None:
        self._vocabulary = vocabulary
        self._watcher = watcher
        self._decoder = decoder
        self._plan = plan
        self._budget = budget
        self._waiting = plan.begin is not None  # for a thought to end
        self._ruling: list[Segment] = []
        self._forced: list[int] = []
        self._calling = False
        self._thought = watcher.thinking is not None  # a thought was there
        self._tried = 0  # openings that turned out to be none, or are over
        self._settle()

    def mask(self) -> Bits | None:
        """Return which tokens may come next; the array is written anew by the next call."""
        if self._forced:
            return self._vocabulary.bits(self._forced[:1])
        if self._plan.over:
            return self._vocabulary.only_stop
        if self._ruling:
            return self._ruled()
        if self._waiting:  # a thought comes first
            return self._vocabulary.all_but_stop
        return None if self._watcher.thinking else self._plan.free

    def take(self, token: int) -> None:
        """Take note of the token that came."""
        thought = self._watcher.thinking is not None
        self._watcher.take(self._decoder.push(token))
        if thought and self._watcher.thinking is not None and not self._forced:
            self._budget.count()
        if self._forced:
            del self._forced[0]
        if self._ruling:
            self._rule(token)
        self._settle()

    def ahead(self) -> Sequence[int]:
        """Return tokens that must come next."""
        if self._forced:
            return list(self._forced)
        if len(self._ruling) == 1 and self._plan.thoughts is None:
            return self._ruling[0].ahead()
        return ()

    def _ruled(self) -> Bits:
        bits = self._ruling[0].mask()
        for other in self._ruling[1:]:
            bits |= other.mask()
        if self._plan.thoughts is not None:
            bits |= self._plan.thoughts
        return bits

    def _rule(self, token: int) -> None:
        opens = self._plan.thoughts
        self._plan.thoughts = None
        if opens is not None and int(opens[token // 32]) >> (token % 32) & 1:
            self._think()
            return
        if len(self._ruling) > 1:
            self._ruling = [each for each in self._ruling if each.allows(token)] or self._ruling
        for segment in self._ruling:
            segment.take(token)
        if any(segment.complete for segment in self._ruling):
            thinks = any(segment.thinks for segment in self._ruling)
            if thinks and self._watcher.thinking is not None:
                self._think()
            else:
                self._done()

    def _think(self) -> None:
        self._waiting, self._ruling = self._plan.begin is not None, []
        self._thought = True
        self._tried = self._watcher.openings

    def _done(self) -> None:
        ends = any(segment.ends for segment in self._ruling)
        self._ruling = []
        self._tried = self._watcher.openings
        if ends or (self._calling and not self._plan.parallel):
            self._plan.over = True

    def _settle(self) -> None:
        """Begin what is to begin now."""
        watcher = self._watcher
        if self._forced or self._ruling or self._plan.over:
            return
        if watcher.thinking is not None:
            self._forced = self._budget.closing(watcher.thinking)
            return
        if self._waiting and self._plan.begin is not None:
            self._ruling, self._waiting = list(self._plan.begin(self._thought)), False
            if watcher.rest.strip():
                self._ruling = [each for each in self._ruling if each.take_text(watcher.rest)]
            return
        if self._plan.call is None or watcher.openings == self._tried:
            return
        if watcher.opened is None:
            self._tried = watcher.openings
            return
        segment = self._plan.call(watcher.opened, watcher.rest)
        if segment is not None:
            self._calling = True
            self._ruling = [segment]
            if segment.complete:
                self._done()
