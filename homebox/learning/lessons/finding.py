"""What a run reads of the ledger before it trains: the chain, lessons, opinions, what holds.

The one idea: each is a generator that works beside the thread that answers, so that a long ledger
makes nobody wait; its `next` says how far it is. Invariant: nothing that was forgotten meanwhile is
chosen.
"""

from collections.abc import Generator, Sequence

from homebox.learning.beside import NOBODY, Interrupt, beside, counting
from homebox.learning.lessons.harvest import Harvest, Harvester
from homebox.learning.lessons.live import LiveLessons
from homebox.learning.lessons.selection import Selection, select
from homebox.learning.lessons.signals import Listener, Signals
from homebox.learning.reading.rule_files import Rules
from homebox.learning.reading.topics import told
from homebox.learning.report import Progress
from homebox.memory.ledger import ERASURES, Ledger


def read_wordings() -> None:
    """Make the tables that messages are read with: that takes a second, once a process."""
    told("nothing of the kind was ever said")


def checked(ledger: Ledger, interrupt: Interrupt) -> Generator[Progress, None, None]:
    """Recompute the chain of turns; raises StateError, which names the first wrong turn."""
    with counting("verify", ledger.count(), "checking the ledger") as (count, told):
        yield from beside(lambda: ledger.verify(known=True, tell=count), told, interrupt)


def follow(
    live: LiveLessons, ledger: Ledger, interrupt: Interrupt = NOBODY
) -> Generator[Progress, None, None]:
    """Keep the lessons of turns that nobody has read yet."""
    with counting("select", ledger.count(), "reading the ledger") as (count, told):

        def read() -> None:
            for done, _ in live.steps():
                count(done)

        yield from beside(read, told, interrupt)


def read_signals(
    ledger: Ledger, interrupt: Interrupt = NOBODY
) -> Generator[Progress, None, Signals]:
    """Find what was thought of answers."""
    text = "reading what was thought of answers"
    with counting("select", ledger.count(), text) as (count, told):

        def read() -> Signals:
            listener = Listener(ledger.feedback())
            for number, turn in enumerate(ledger.turns(), 1):
                listener.read(turn)
                count(number)
            return listener.signals(ledger.lessons())

        return (yield from beside(read, told, interrupt))


def chosen(
    live: LiveLessons,
    ledger: Ledger,
    erased: int,
    served: tuple[Sequence[str], str],
    signals: Signals,
    interrupt: Interrupt = NOBODY,
) -> Generator[Progress, None, Selection | None]:
    """Select what holds; None if something was forgotten since the mark ERASURES was `erased`.

    `served` are the lessons in the served weights and when these were promoted.
    """

    def work() -> Selection | None:
        with live.lock:  # nobody forgets meanwhile what is kept here
            if ledger.mark(ERASURES) != erased:
                return None
            return select(live.found, ledger, *served, signals)

    return (yield from beside(work, Progress("select", 0, 1, "choosing the lessons"), interrupt))


def read_ledger(
    ledger: Ledger, rules: Rules, interrupt: Interrupt = NOBODY
) -> Generator[Progress, None, Harvest]:
    """Find every lesson in the ledger, and keep none."""
    with counting("select", ledger.count(), "reading the ledger") as (count, told):

        def read() -> Harvest:
            harvester = Harvester(rules)
            for number, turn in enumerate(ledger.turns(), 1):
                harvester.read(turn)
                count(number)
            return harvester.found

        return (yield from beside(read, told, interrupt))
