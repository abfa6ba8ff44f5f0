"""Graphs as models make them, small: what the stored list of kernels is made from."""

from collections.abc import Callable

from homebox.engine.graph import dtype as dt
from homebox.engine.graph.formats import WEIGHTS
from homebox.engine.graph.grad import gradient
from homebox.engine.graph.ops import Sym
from homebox.engine.graph.tensor import Tensor
from homebox.model.decoder.masked_attention import masked_attention, visible

WIDTH, HEADS, GROUPS, DIM, CONTEXT, INNER = 48, 2, 2, 12, 64, 80


def rms_norm(x: Tensor) -> Tensor:
    """x / sqrt(mean(x^2) + eps) along the last axis."""
    return x * ((x * x).mean(-1, keepdim=True) + 1e-5).rsqrt()


def decoder_block(rows: int) -> list[Tensor]:
    """Return a layer's output for `rows` positions, its keys and values appended to a cache."""
    length, start = Sym("length", 1, CONTEXT), Sym("start", 0, CONTEXT - 1)
    x = Tensor.zeros((rows, WIDTH))
    matrix = {
        name: Tensor.zeros(shape)
        for name, shape in {
            "q": (HEADS * GROUPS * DIM, WIDTH),
            "k": (HEADS * DIM, WIDTH),
            "v": (HEADS * DIM, WIDTH),
            "o": (WIDTH, HEADS * GROUPS * DIM),
            "gate": (INNER, WIDTH),
            "up": (INNER, WIDTH),
            "down": (WIDTH, INNER),
        }.items()
    }
    for weight in matrix.values():
        weight.buffer.frozen = True
    normed = rms_norm(x)
    q, k, v = (normed.linear(matrix[name]) for name in "qkv")
    places = Tensor.iota(rows) + Tensor.variable(start)
    # Keys lie in panels of 16 positions, values in one panel of 16 channels.
    keys, values = Tensor.zeros((HEADS * CONTEXT * DIM,)), Tensor.zeros((HEADS * CONTEXT * 16,))
    shape = (rows, HEADS, DIM)
    at = places.reshape((rows, 1, 1)).broadcast(shape)
    head = Tensor.iota(HEADS).reshape((1, HEADS, 1)).broadcast(shape)
    channel = Tensor.iota(DIM).broadcast(shape)
    key_at = ((head * (CONTEXT // 16) + at // 16) * DIM + channel) * 16 + at % 16
    keys = keys.store(k.reshape(shape), key_at)
    values = values.store(v.reshape(shape), (head * CONTEXT + at) * 16 + channel)
    past_k = keys.reshape((HEADS, CONTEXT // 16, DIM, 16)).permute(0, 1, 3, 2)
    past_k = past_k.reshape((HEADS, 1, CONTEXT, DIM)).slice(2, 0, length)
    past_v = values.reshape((HEADS, 1, CONTEXT, 16)).slice(2, 0, length)
    query = q.reshape((rows, HEADS, GROUPS, DIM)).permute(1, 2, 0, 3) * DIM**-0.5
    scores = query @ past_k.transpose()
    seen = Tensor.iota(length).reshape((1, length)) <= places.reshape((rows, 1))
    attended = (seen.where(scores, float("-inf")).softmax() @ past_v).slice(3, 0, DIM)
    x = x + attended.permute(2, 0, 1, 3).reshape((rows, HEADS * GROUPS * DIM)).linear(matrix["o"])
    normed = rms_norm(x)
    inner = normed.linear(matrix["gate"]).silu() * normed.linear(matrix["up"])
    return [x + inner.linear(matrix["down"]), keys, values]


def training_step() -> list[Tensor]:
    """Return the loss of a small classifier and the stores of one step of its optimiser."""
    rows, classes = 24, 40
    table, norm = Tensor.zeros((classes, WIDTH)), Tensor.zeros((WIDTH,))
    first, second = Tensor.zeros((INNER, WIDTH)), Tensor.zeros((WIDTH, INNER))
    ids, target = Tensor.zeros((rows,), dt.i32), Tensor.zeros((rows,), dt.i32)
    hidden = table.gather(ids)
    hidden = hidden + (rms_norm(hidden) * norm).linear(first).silu().linear(second)
    logits = hidden.linear(table)
    hit = Tensor.iota(classes).equal(target.reshape((rows, 1)))
    loss = (logits.logsumexp() - hit.where(logits, 0.0).sum(-1, keepdim=True)).sum()
    weights = [table, norm, first, second]
    grads = [g.contiguous() for g in gradient(loss, weights)]
    outputs = [loss]
    for weight, g in zip(weights, grads, strict=True):
        moment = Tensor.zeros(weight.shape)
        m = moment.store(moment * 0.9 + g * 0.1)
        outputs += [m, weight.store(weight - m * 0.01 * ((m * m).sqrt() + 1e-8).recip())]
    return outputs


def assorted() -> list[Tensor]:
    """Return kernels of kinds that the others lack."""
    x, n = Tensor.zeros((30, 50)), Sym("n", 1, 30)
    index = Tensor.zeros((7,), dt.i32)
    return [
        x.sum(0),
        x.slice(0, 0, n).softmax(),
        x.cast(dt.bf16).transpose(),
        x.pad(0, 2, 3).cat(x.slice(0, 0, 30).pad(0, 5, 0), axis=1).max(1),
        x.exp().log() + x.sin(),
        x.slice(1, 49, 50, -1).reshape((25, 60)),
        (x.slice(1, 0, 16).transpose() @ x).reshape((40, 20)),
        Tensor.zeros((3, 1500)) @ Tensor.zeros((1500, 16)),
        Tensor.zeros((9, 20)).store(x.gather(index).slice(1, 0, 20), index, add=True),
        (Tensor.iota(40) // 7) % 3,
    ]


def packed_products() -> list[Tensor]:
    """Return products with weights of every format, few rows and many, forwards and backwards."""
    outputs, n, k = [], 48, 128
    for form in WEIGHTS.values():
        memory = Tensor.zeros((form.nbytes(n, k),), dt.u8)
        memory.buffer.frozen = True
        weight = Tensor.packed(form, n, k, memory)
        for rows in (1, 40):
            x = Tensor.zeros((rows, k))
            outputs += [x.linear(weight), x.cast(dt.bf16).cast(dt.f32).linear(weight)]
            if form.quantised:
                outputs.append(x.quantised().linear(weight))
        outputs.append(Tensor.zeros((40, n)).matmul(weight))
    return outputs


def mixture(rows: int) -> list[Tensor]:
    """Return blocks of rows through gate, up and down of one of four experts each, and back."""
    count, blocks, inner, outputs = 4, 6, 64, []
    expert = Tensor.zeros((blocks,), dt.i32)
    for form in (WEIGHTS["q8"], WEIGHTS["bf16"]):
        gate, up, down = (Tensor.zeros((form.nbytes(count * inner, inner),), dt.u8) for _ in "gud")
        weights = []
        for memory in (gate, up, down):
            memory.buffer.frozen = True
            flat = Tensor.packed(form, count * inner, inner, memory)
            weights.append(flat.reshape((count, inner, inner)))
        x = Tensor.zeros((blocks * rows, inner))
        given = (x.quantised() if form.quantised else x).reshape((blocks, rows, inner))
        g, u = (given.grouped_linear(w, expert) for w in weights[:2])
        between = (g.silu() * u).reshape((blocks * rows, inner))
        between = (between.quantised() if form.quantised else between).reshape(given.shape)
        outputs.append(between.grouped_linear(weights[2], expert))
        outputs.append(Tensor.zeros((blocks, rows, inner)).grouped_matmul(weights[2], expert))
    plain = Tensor.zeros((count, 40, inner))
    plain.buffer.frozen = True
    outputs.append(Tensor.zeros((blocks, rows, inner)).grouped_linear(plain, expert))
    return outputs


def attention_with_everything() -> list[Tensor]:
    """Return attention with a cap, sinks and a window: few rows in splits, many, and tanh alone."""
    outputs = []
    for rows, length in ((1, 768), (20, 128)):
        q = Tensor.zeros((2, 2, 3, rows, 16))
        k, v = (Tensor.zeros((2, 2, 1, length, 16)) for _ in range(2))
        seen = visible(Tensor.zeros((2, rows), dt.i32), length, window=100)
        outputs.append(masked_attention(q, k, v, seen, 5.0, Tensor.zeros((2, 3))))
    return [*outputs, Tensor.zeros((40, 70)).gelu_tanh()]


PROGRAMS: dict[str, Callable[[], list[Tensor]]] = {
    "decode": lambda: decoder_block(1),
    "prefill": lambda: decoder_block(16),
    "train": training_step,
    "assorted": assorted,
    "packed": packed_products,
    "experts": lambda: mixture(1),
    "experts16": lambda: mixture(16),
    "attention": attention_with_everything,
}
