"""Cross-entropy without ever holding all logits, and its gradient.

Logits are computed at the places that ask, in chunks through one buffer: a chunk's logits are
written, turned in place into their own gradient, and multiplied back to the hidden states; nothing
is computed twice. With q = softmax(student) and the weight w of a place:

    loss = w (log sum exp s - s[target])
    dloss / ds = w (q - onehot(target))

and what `distillation` adds where a teacher's opinion is given. A weight may be negative: then the
token's probability falls (see learning.liking).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from homebox.engine.graph.device import HOST, Buffer, Device
from homebox.engine.graph.tensor import Tensor, size_of
from homebox.model.decoder.gated import capped_logits, uncapped
from homebox.model.training.distillation import Distillation, Taught
from homebox.model.training.frozen_base import FrozenBase

BUFFER_BYTES = 32 << 20  # stay in a CPU's last cache
CARD_BUFFER_BYTES = 256 << 20  # a card needs many rows to be busy
_ROWS = 16  # chunks are a multiple of this


@dataclass(frozen=True)
class Places:
    """Which C of a batch's N places ask for something, both int32.

    `place` (C,) are their numbers; `spot` (N,) is where each place stands among them, C for one
    that asks for nothing.
    """

    place: Tensor
    spot: Tensor

    def of(self, x: Tensor) -> Tensor:
        """Return the rows of x (N, H) that ask, (C, H)."""
        return x.gather(self.place)

    def back(self, d: Tensor) -> Tensor:
        """Undo `of` for gradients d (more than C, H), whose row C is 0: (N, H)."""
        return d.gather(self.spot)


@dataclass(frozen=True)
class Shares:
    """What each place asks for, all (C,): the next token and its weight.

    `taught` is what a teacher thinks of the places, in programs that distill.
    """

    target: Tensor
    weight: Tensor
    taught: Taught | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> "Shares":
        """Return the same with every tensor changed."""
        taught = self.taught
        if taught is not None:
            given = (taught.ids, taught.probabilities, taught.share, taught.anchor)
            taught = Taught(*(change(t) for t in given))
        return Shares(change(self.target), change(self.weight), taught)


@dataclass(frozen=True)
class Losses:
    """Weighted sums over all places, scalars; and the gradient of the loss, (more than C, H).

    `kl` is the part of the loss that holds the student to the base.
    """

    loss: Tensor
    kl: Tensor
    d_hidden: Tensor | None


def chunk_rows(count: int, vocabulary: int, limit: int = BUFFER_BYTES) -> int:
    """Return how many rows of float32 logits are held at a time."""
    fitting = limit // (4 * vocabulary)
    most = max(_ROWS, fitting // _ROWS * _ROWS)
    chunks = math.ceil(count / most)
    return min(count, math.ceil(count / chunks / _ROWS) * _ROWS)


def buffer_bytes(device: Device) -> int:
    """Return how many bytes of logits to hold at a time; gradients keep their bits."""
    return CARD_BUFFER_BYTES if device.busy_rows > HOST.busy_rows else BUFFER_BYTES


class CrossEntropy:
    """Owns the buffers for `count` places; call it once for each program."""

    def __init__(self, base: FrozenBase, count: int, limit: int = BUFFER_BYTES) -> None:
        self.base, self.count = base, count
        vocabulary = base.config.vocab_size
        self.rows = chunk_rows(count, vocabulary, limit)
        self._student = Tensor.zeros((self.rows, vocabulary))
        # One row more than the chunks have: what asks for nothing has its gradient.
        whole = math.ceil(count / self.rows) * self.rows + 1
        self._gradient = Tensor.zeros((whole, base.config.hidden_size))

    def buffers(self) -> dict[str, Buffer]:
        """Return the memory by names that are the same in every process."""
        return {"logits:student": self._student.buffer, "logits:hidden": self._gradient.buffer}

    def __call__(self, hidden: Tensor, shares: Shares, backward: bool = True) -> Losses:
        """Return losses for hidden states (C, H)."""
        losses: list[Tensor] = []
        kl: list[Tensor] = []
        student, gathered = self._student, self._gradient
        for start in range(0, self.count, self.rows):
            part = shares.each(partial(self._cut, start=start))
            student = self._logits(student, self._cut(hidden, start))
            done = Chunk(student, part)
            # In memory at once: the next chunk overwrites what they are computed from.
            losses.append(done.loss().contiguous())
            if done.taught is not None:
                kl.append(done.taught.kl().contiguous())
            if backward:
                student = student.store(uncapped(self.base.config, student, done.d_logits()))
                d = self.base.backward(student, self.base.head)
                gathered = gathered.store(d, Tensor.iota(self.rows) + start)
        total_kl = _total(kl) if kl else Tensor.full((), 0.0)
        return Losses(_total(losses), total_kl, gathered if backward else None)

    def likelihoods(self, hidden: Tensor, shares: Shares) -> Tensor:
        """Return the logarithm of each target's probability for hidden states (C, H): (C,)."""
        found: list[Tensor] = []
        student = self._student
        for start in range(0, self.count, self.rows):
            student = self._logits(student, self._cut(hidden, start))
            chunk = Chunk(student, shares.each(partial(self._cut, start=start)))
            found.append(chunk.likelihoods().contiguous())
        return found[0].cat(*found[1:]).slice(0, 0, self.count)

    def _cut(self, x: Tensor, start: int) -> Tensor:
        """Return the rows of a chunk; the last chunk ends with zeros, which weigh nothing."""
        return x.pad(0, 0, -self.count % self.rows).slice(0, start, self.rows)

    def _logits(self, memory: Tensor, hidden: Tensor) -> Tensor:
        """Write the logits of some rows into a buffer."""
        logits = self.base.forward(hidden, self.base.head)
        return memory.store(capped_logits(self.base.config, logits))


class Chunk:
    """Logits (rows, V) of a student in memory."""

    def __init__(self, student: Tensor, shares: Shares) -> None:
        self.student, self.shares = student, shares
        # In memory: what is computed from them overwrites the logits.
        self.total = _log_sum_exp(student)  # (rows, 1)
        taught = shares.taught
        self.taught = None if taught is None else Distillation(student, self.total, taught)

    def loss(self) -> Tensor:
        """Return the weighted cross-entropy, and the distillation if there is one."""
        cross = (self._unlikely() * self.shares.weight).sum()
        return cross if self.taught is None else cross + self.taught.loss()

    def likelihoods(self) -> Tensor:
        """Return the logarithms of the targets' probabilities, (rows,)."""
        return self._unlikely() * -1.0

    def _unlikely(self) -> Tensor:
        rows, vocabulary = (size_of(d) for d in self.student.shape)
        at = Tensor.iota(rows) * vocabulary + self.shares.target
        hit = self.student.reshape((rows * vocabulary,)).gather(at)
        return self.total.reshape((rows,)) - hit

    def d_logits(self) -> Tensor:
        """Return the gradient of the student's logits, (rows, V)."""
        q = (self.student - self.total).exp()
        rows, vocabulary = (size_of(d) for d in self.student.shape)
        target, weight = (x.reshape((rows, 1)) for x in (self.shares.target, self.shares.weight))
        hit = Tensor.iota(vocabulary).reshape((1, vocabulary)).equal(target)
        d = weight * (q - hit.where(1.0, 0.0))
        return d if self.taught is None else d + self.taught.d_logits(q)


def _log_sum_exp(logits: Tensor) -> Tensor:
    """Return log sum exp of each row, (rows, 1), in memory."""
    top = logits.max(-1, keepdim=True).contiguous()
    # The logits stand last: a sum runs along what its last source has side by side.
    return ((top * -1.0 + logits).exp().sum(-1, keepdim=True).log() + top).contiguous()


def _total(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
