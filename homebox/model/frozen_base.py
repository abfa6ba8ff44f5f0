"""The frozen matrices under an adapter: looked up by projection, multiplied forwards and backwards.

Weights are float32 tensors, one for each projection, or packed matrices (`formats`), where the rows
of q, k, v and of gate, up lie one below the other. Either way `matrix` gives one projection.
Numerics "f32" multiplies exact weights with float32 activations and has the same bits everywhere;
"bf16" rounds the activations of these products, forwards and backwards, and nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass

from homebox.engine import dtype as dt
from homebox.engine.device import Buffer
from homebox.engine.formats import Format
from homebox.engine.ops import Node, Op, node
from homebox.engine.tensor import Tensor
from homebox.errors import ConfigError
from homebox.model.config import ModelConfig

NUMERICS = ("f32", "bf16")
STACKS = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up"}

Lookup = Callable[[str], Tensor]


@dataclass(frozen=True)
class FrozenBase:
    """A model's weights for training; `lookup` returns a tensor by name or raises KeyError."""

    config: ModelConfig
    lookup: Lookup
    numerics: str = "f32"

    def __post_init__(self) -> None:
        if self.numerics not in NUMERICS:
            raise ConfigError(f"numerics must be one of {', '.join(NUMERICS)}, not {self.numerics}")

    def vector(self, name: str) -> Tensor:
        """Return the weights of a norm, (n,)."""
        return self.lookup(name)

    @property
    def head(self) -> Tensor:
        """The matrix of the logits, (V, H)."""
        return self.lookup("embed" if self.config.tied else "head")

    def matrix(self, name: str) -> Tensor:
        """Return the (out, in) matrix of "layers.{i}.{projection}"."""
        prefix, kind = name.rsplit(".", 1)
        try:
            return self.lookup(name)
        except KeyError:
            if kind not in STACKS:
                raise
        stack = self.lookup(f"{prefix}.{STACKS[kind]}")
        before = [k for k in STACKS if STACKS[k] == STACKS[kind]]
        sizes = [self.config.projection_shape(k)[0] for k in before]
        place = before.index(kind)
        return rows_of(stack, sum(sizes[:place]), sizes[place])

    def rounded(self, x: Tensor) -> Tensor:
        """Return activations as the products with frozen weights take them."""
        return x.cast(dt.bf16).cast(dt.f32) if self.numerics == "bf16" else x

    def forward(self, x: Tensor, matrix: Tensor) -> Tensor:
        """x (N, in) times a matrix (out, in) -> (N, out)."""
        return self.rounded(x).linear(matrix)

    def backward(self, g: Tensor, matrix: Tensor) -> Tensor:
        """Return the gradient of x (N, in) from that of the product, (N, out)."""
        return self.rounded(g).matmul(matrix)

    def kept(self, x: Tensor) -> Tensor:
        """Put activations into memory, in the type that the products take."""
        return x.cast(dt.bf16).contiguous() if self.numerics == "bf16" else x.contiguous()


def rows_of(matrix: Tensor, start: int, count: int) -> Tensor:
    """Return rows of an (n, k) matrix; whole panels of a packed one are a view of its bytes."""
    source = matrix.node
    if source.op is not Op.UNPACK or source.src[0].op is not Op.BUFFER:
        return matrix.slice(0, start, count)
    form: Format = source.arg
    if start % form.rows or count % form.rows:
        return matrix.slice(0, start, count)
    k = source.shape[1]
    if not isinstance(k, int):
        raise TypeError("a packed matrix has a fixed shape")
    whole: Buffer = source.src[0].arg
    at = form.nbytes(start, k)
    part = whole.array[at : at + form.nbytes(count, k)]
    view = Buffer.over(part, dt.u8, frozen=whole.frozen)
    memory: Node = node(Op.BUFFER, dt.u8, (part.size,), (), view)
    return Tensor.packed(form, count, k, Tensor(memory))
