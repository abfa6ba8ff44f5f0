"""Applies rules to a graph, bottom-up and without recursion, until nothing changes.

A rule is a plain function `Node -> Node | None` registered for some ops; None means "no change".
A pass visits sources before their users; passes repeat until the graph is at rest. Limits on steps
and passes catch rules that undo each other, and name them.
"""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence

from homebox.engine.graph.ops import Node, Op, node, toposort
from homebox.errors import EngineError

Rule = Callable[[Node], Node | None]


class Rules:
    """A set of rules by op, with a count of how often each fired (DEBUG=3 prints it)."""

    def __init__(self) -> None:
        self.by_op: dict[Op, list[Rule]] = {}
        self.fired: Counter[str] = Counter()

    def on(self, *ops: Op) -> Callable[[Rule], Rule]:
        """Return a decorator that registers a rule for some ops."""

        def register(rule: Rule) -> Rule:
            for op in ops:
                self.by_op.setdefault(op, []).append(rule)
            return rule

        return register

    def apply(self, current: Node, limit: int = 200) -> Node:
        """Fire rules on one node until none applies; its sources are finished already."""
        trail: list[str] = []
        while True:
            for rule in self.by_op.get(current.op, ()):
                changed = rule(current)
                if changed is not None and changed is not current:
                    self.fired[rule.__name__] += 1
                    trail.append(rule.__name__)
                    break
            else:
                return current
            if len(trail) > limit:
                loop = ", ".join(name for name, _ in Counter(trail[-20:]).most_common())
                raise EngineError(f"graph rules never came to rest on {current!r}: {loop}")
            current = changed


def rewrite(
    roots: Sequence[Node], rules: Rules, finished: Container[Node] = (), passes: int = 50
) -> list[Node]:
    """Return the roots after rewriting everything below them, pass by pass until nothing changes.

    Nodes in `finished`, and what lies below them, are taken as they are.
    """
    current = list(roots)
    for _ in range(passes):
        done: dict[Node, Node] = {}
        for each in toposort(current, finished):
            if each in finished:
                done[each] = each
            else:
                done[each] = rules.apply(with_sources(each, tuple(done[s] for s in each.src)))
        changed = [done[root] for root in current]
        if changed == current:
            return current
        current = changed
    recent = ", ".join(name for name, _ in rules.fired.most_common(5))
    raise EngineError(f"graph rules never came to rest after {passes} passes; most fired: {recent}")


def with_sources(original: Node, src: tuple[Node, ...]) -> Node:
    """Return the same operation on other sources."""
    if src == original.src:
        return original
    return node(original.op, original.dtype, original.shape, src, original.arg)


def substitute(roots: Iterable[Node], mapping: dict[Node, Node]) -> list[Node]:
    """Return the roots with some nodes replaced; replacements are taken as they are."""
    done: dict[Node, Node] = dict(mapping)
    roots = list(roots)
    for current in toposort(roots):
        if current not in done:
            done[current] = with_sources(current, tuple(done[s] for s in current.src))
    return [done[root] for root in roots]
