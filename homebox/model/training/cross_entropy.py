"""Cross-entropy and KL to the base without ever holding all logits, and their gradient.

Rows are taken in chunks through one buffer: a chunk's logits are written, turned in place into
their own gradient, and multiplied back to the hidden states; nothing is computed twice.
With q = softmax(student), p = softmax(base) and a row's shares w (cross-entropy), a (KL):

    loss = w (log sum exp s - s[target]) + a sum p (log p - log q)
    dloss / ds = w (q - onehot(target)) + a (q - p)

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
class Shares:
    """What each place asks for, all (N,): the next token, its weight, and that of the KL.

    `taught` is what a teacher thinks of the places, in programs that distill.
    """

    target: Tensor
    weight: Tensor
    anchor: Tensor
    taught: Taught | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> "Shares":
        """Return the same with every tensor changed."""
        taught = self.taught
        if taught is not None:
            given = (taught.ids, taught.probabilities, taught.share)
            taught = Taught(*(change(t) for t in given))
        return Shares(change(self.target), change(self.weight), change(self.anchor), taught)


@dataclass(frozen=True)
class Losses:
    """Weighted sums over all places, scalars; and the gradient of their total, (N, H)."""

    cross: Tensor
    kl: Tensor
    d_hidden: Tensor | None


def chunk_rows(count: int, vocabulary: int, buffers: int, limit: int = BUFFER_BYTES) -> int:
    """Return how many rows of float32 logits are held at a time."""
    fitting = limit // (4 * vocabulary * buffers)
    most = max(_ROWS, fitting // _ROWS * _ROWS)
    chunks = math.ceil(count / most)
    return min(count, math.ceil(count / chunks / _ROWS) * _ROWS)


def buffer_bytes(device: Device) -> int:
    """Return how many bytes of logits to hold at a time; gradients keep their bits."""
    return CARD_BUFFER_BYTES if device.busy_rows > HOST.busy_rows else BUFFER_BYTES


class CrossEntropy:
    """Owns the buffers; call it once for each program."""

    def __init__(
        self, base: FrozenBase, count: int, anchored: bool, limit: int = BUFFER_BYTES
    ) -> None:
        self.base, self.count, self.anchored = base, count, anchored
        vocabulary = base.config.vocab_size
        self.rows = chunk_rows(count, vocabulary, 2 if anchored else 1, limit)
        self._student = Tensor.zeros((self.rows, vocabulary))
        self._anchor = Tensor.zeros((self.rows, vocabulary)) if anchored else None
        self._gradient = Tensor.zeros((count, base.config.hidden_size))

    def buffers(self) -> dict[str, Buffer]:
        """Return the memory by names that are the same in every process."""
        given = {"student": self._student, "anchor": self._anchor, "hidden": self._gradient}
        return {f"logits:{name}": t.buffer for name, t in given.items() if t is not None}

    def __call__(
        self, hidden: Tensor, anchor: Tensor | None, shares: Shares, backward: bool = True
    ) -> Losses:
        """Return losses for hidden states (N, H), and for those of the base if `anchored`."""
        cross: list[Tensor] = []
        kl: list[Tensor] = []
        student, base, gathered = self._student, self._anchor, self._gradient
        for start in range(0, self.count, self.rows):
            part = shares.each(partial(self._cut, start=start))
            student = self._logits(student, self._cut(hidden, start))
            if base is not None and anchor is not None:
                base = self._logits(base, self._cut(anchor, start))
            done = Chunk(student, base, part)
            # In memory at once: the next chunk overwrites what they are computed from.
            cross.append(done.cross().contiguous())
            if base is not None:
                kl.append(done.kl().contiguous())
            if backward:
                student = student.store(uncapped(self.base.config, student, done.d_logits()))
                d = self.base.backward(student, self.base.head)
                gathered = gathered.store(d, Tensor.iota(self.rows) + start)
        total_kl = _total(kl) if kl else Tensor.full((), 0.0)
        return Losses(_total(cross), total_kl, gathered if backward else None)

    def likelihoods(self, hidden: Tensor, shares: Shares) -> Tensor:
        """Return the logarithm of each target's probability for hidden states (N, H): (N,)."""
        found: list[Tensor] = []
        student = self._student
        for start in range(0, self.count, self.rows):
            student = self._logits(student, self._cut(hidden, start))
            chunk = Chunk(student, None, shares.each(partial(self._cut, start=start)))
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
    """Logits (rows, V) of student and base in memory."""

    def __init__(self, student: Tensor, base: Tensor | None, shares: Shares) -> None:
        self.student, self.base, self.shares = student, base, shares
        # In memory: what is computed from them overwrites the logits.
        self.total = _log_sum_exp(student)  # (rows, 1)
        self.base_total = None if base is None else _log_sum_exp(base)
        taught = shares.taught
        self.taught = None if taught is None else Distillation(student, self.total, taught)

    def cross(self) -> Tensor:
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

    def kl(self) -> Tensor:
        """Return the weighted KL(base || student) = sum p (log p - s) + log sum exp s."""
        log_p = self._log_p()
        apart = (log_p.exp() * (log_p - self.student)).sum(-1, keepdim=True)
        return ((apart + self.total) * _column(self.shares.anchor)).sum()

    def d_logits(self) -> Tensor:
        """Return the gradient of the student's logits, (rows, V)."""
        q = (self.student - self.total).exp()
        vocabulary = size_of(self.student.shape[1])
        place = Tensor.iota(vocabulary).reshape((1, vocabulary))
        hit = place.equal(_column(self.shares.target))
        d = _column(self.shares.weight) * (q - hit.where(1.0, 0.0))
        if self.base is not None:
            d = d + _column(self.shares.anchor) * (q - self._log_p().exp())
        return d if self.taught is None else d + self.taught.d_logits(q)

    def _log_p(self) -> Tensor:
        if self.base is None or self.base_total is None:
            raise ValueError("there is no base to compare with")
        return self.base_total * -1.0 + self.base


def _log_sum_exp(logits: Tensor) -> Tensor:
    """Return log sum exp of each row, (rows, 1), in memory."""
    top = logits.max(-1, keepdim=True).contiguous()
    # The logits stand last: a sum runs along what its last source has side by side.
    return ((top * -1.0 + logits).exp().sum(-1, keepdim=True).log() + top).contiguous()


def _column(values: Tensor) -> Tensor:
    return values.reshape((size_of(values.shape[0]), 1))


def _total(parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
