"""Distillation from a teacher of whom only the most probable tokens are known: top and tail.

With p_k the teacher's probabilities of its top ids, p_t what is left of them, q the student's
softmax and q_t what it leaves for all other ids:

    KD = sum p_k (log p_k - log q_k) + p_t (log p_t - log q_t)
    dKD / ds_j = q_j - p_j for j in the top, q_j - p_t q_j / q_t for all others

That is KL(p || q) of the distributions in which all other ids are one event, so it is 0 where they
agree and never above the KL of the whole ones. Invariant: q_t is the sum of what it consists of,
not 1 - sum q_k, which is noise where the student is sure.
"""

from dataclasses import dataclass

from homebox.engine.graph.tensor import Tensor, size_of

TOP = 20  # ids of which a teacher's probability is known
_LEAST = 1e-30  # of a student's share, so that its logarithm is a number


@dataclass(frozen=True)
class Taught:
    """A teacher's opinion of N places, as tensors; a share of 0 asks for nothing.

    `ids` (N, TOP) int32, all different; -1 with probability 0 stands for none. `probabilities`
    (N, TOP) float32; `share` and `anchor` (N,) float32: weights of the distillation, of which the
    second one's part is told apart.
    """

    ids: Tensor
    probabilities: Tensor
    share: Tensor
    anchor: Tensor


class Distillation:
    """The distillation of one chunk of logits (rows, V) in memory."""

    def __init__(self, student: Tensor, total: Tensor, taught: Taught) -> None:
        """`total` (rows, 1) is log sum exp of the logits."""
        self.student, self.total, self.taught = student, total, taught
        rows, vocabulary = (size_of(d) for d in student.shape)
        self._left = (taught.probabilities.sum(-1, keepdim=True) * -1.0 + 1.0).maximum(0.0)
        at = Tensor.iota(rows).reshape((rows, 1)) * vocabulary + taught.ids
        # In memory: what is computed from them overwrites the logits.
        self._hits = student.reshape((rows * vocabulary,)).gather(at).contiguous()
        outside = (self._marks() < 0.0).where(1.0, 0.0)
        # The logits stand last: a sum runs along what its last source has side by side.
        rest = (outside * (total * -1.0 + student).exp()).sum(-1, keepdim=True)
        self._rest = rest.maximum(_LEAST).contiguous()
        self._apart = self._divergence().contiguous()

    def loss(self) -> Tensor:
        """Return the weighted sum over the chunk, a scalar."""
        return (self._apart * self._share()).sum()

    def kl(self) -> Tensor:
        """Return what `anchor` has of the loss, a scalar."""
        return (self._apart * _column(self.taught.anchor)).sum()

    def d_logits(self, q: Tensor) -> Tensor:
        """Return the gradient of the logits from their softmax, (rows, V)."""
        marks = self._marks()
        tail = 1.0 - self._left * self._rest.recip()
        return self._share() * (marks < 0.0).where(q * tail, q - marks)

    def _divergence(self) -> Tensor:
        """Return KD of every place, (rows, 1)."""
        p, left = self.taught.probabilities, self._left
        top = (p > 0.0).where(p * (_log(p) - self._hits + self.total), 0.0).sum(-1, keepdim=True)
        return top + (left > 0.0).where(left * (_log(left) - self._rest.log()), 0.0)

    def _share(self) -> Tensor:
        return _column(self.taught.share + self.taught.anchor)

    def _marks(self) -> Tensor:
        """Return the teacher's probability of every id of its top, -1 for all others, (rows, V)."""
        rows, vocabulary = (size_of(d) for d in self.student.shape)
        place = Tensor.iota(vocabulary).reshape((1, vocabulary))
        marks = Tensor.full((rows, vocabulary), -1.0)
        for k in range(TOP):
            hit = place.equal(self.taught.ids.slice(1, k, 1))
            marks = hit.where(self.taught.probabilities.slice(1, k, 1), marks)
        return marks


def _log(p: Tensor) -> Tensor:
    """Return the logarithm, a number also for 0."""
    return p.maximum(_LEAST).log()


def _column(values: Tensor) -> Tensor:
    return values.reshape((size_of(values.shape[0]), 1))
