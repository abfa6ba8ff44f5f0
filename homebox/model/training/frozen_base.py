"""The frozen matrices under an adapter: looked up by projection, multiplied forwards and backwards.

Weights are float32 tensors, one for each projection, or packed matrices (`formats`), where the rows
of q, k and v lie one below the other. Either way there is one tensor for each projection.
Numerics "f32" multiplies exact weights with float32 activations and has the same bits everywhere;
"bf16" rounds the activations of these products, forwards and backwards, and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.device import Buffer
from homebox.engine.graph.formats import Format
from homebox.engine.graph.ops import Node, Op, node
from homebox.engine.graph.tensor import Tensor
from homebox.errors import ConfigError
from homebox.model.config import ModelConfig

NUMERICS = ("f32", "bf16")
STACK = ("q", "k", "v")  # rows of "qkv", in this order


@dataclass(frozen=True)
class FrozenBase:
    """A model's weights for training, by the names of `config.weight_shapes()`."""

    config: ModelConfig
    tensors: Mapping[str, Tensor]
    numerics: str

    @staticmethod
    def of(config: ModelConfig, given: Mapping[str, Tensor], numerics: str) -> "FrozenBase":
        """Take weights of which q, k and v may be stacked; raises ConfigError for the numerics."""
        if numerics not in NUMERICS:
            raise ConfigError(f"numerics must be one of {', '.join(NUMERICS)}, not {numerics}")
        tensors = dict(given)
        for layer in range(config.num_layers):
            at = 0
            for kind in STACK:
                name, stack = f"layers.{layer}.{kind}", f"layers.{layer}.qkv"
                rows = config.projection_shape(kind)[0]
                if name not in tensors:
                    tensors[name] = rows_of(given[stack], at, rows)
                if config.qkv_bias and f"{name}_bias" not in tensors:
                    tensors[f"{name}_bias"] = given[f"{stack}_bias"].slice(0, at, rows)
                at += rows
        return FrozenBase(config, tensors, numerics)

    @property
    def head(self) -> Tensor:
        """The matrix of the logits, (V, H)."""
        return self.tensors["embed" if self.config.tied else "head"]

    def buffers(self) -> dict[str, Buffer]:
        """Return the memory behind the weights by names that are the same in every process."""
        found: dict[str, Buffer] = {}
        for name, tensor in self.tensors.items():
            source = tensor.node
            while source.op is not Op.BUFFER and len(source.src) == 1:
                source = source.src[0]
            if source.op is Op.BUFFER:
                found[f"weights:{name}"] = source.arg
        return found

    def layout(self) -> dict[str, list[str]]:
        """Say how each weight lies, for a key of programs."""
        return {
            name: [t.node.op.name, t.dtype.name, str(t.shape), str(_format_of(t))]
            for name, t in self.tensors.items()
        }

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
    view = whole.part(at, form.nbytes(count, k))
    memory: Node = node(Op.BUFFER, dt.u8, (view.count,), (), view)
    return Tensor.packed(form, count, k, Tensor(memory))


def _format_of(t: Tensor) -> Format | None:
    """Return the format of a packed matrix, also of rows of one."""
    source = t.node
    while source.op is Op.SLICE:
        source = source.src[0]
    return source.arg if source.op is Op.UNPACK else None
