"""f32 matrix product against numpy: 512 x 3072 outputs, 1024 products each, all cores."""

import numpy as np

from bench.measure import alternate, report
from homebox.engine.graph.tensor import Tensor
from homebox.engine.runtime.capture import Spec, capture

M, N, K = 512, 3072, 1024
FLOOR = 1.5


def main(rounds: int = 15) -> bool:
    """Measure; the weight is packed once, as a model's weights are."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((M, K), dtype=np.float32)
    w = rng.standard_normal((N, K), dtype=np.float32)
    weight = Tensor.from_numpy(w, frozen=True)
    program = capture(lambda x: x.linear(weight), {"x": Spec((M, K))}, name="gemm")
    (ours,) = program(x=x)
    wanted = x.astype(np.float64) @ w.T.astype(np.float64)
    error = float(np.abs(ours - wanted).max() / np.abs(wanted).max())
    if error > 1e-5:
        raise SystemExit(f"gemm: wrong result, relative error {error:.1e}")
    transposed = np.ascontiguousarray(w.T)
    seconds = alternate({"ours": program.run, "numpy": lambda: x @ transposed}, rounds)
    work = 2 * M * N * K / 1e9
    return report("gemm_f32", seconds["ours"], seconds["numpy"], work, "GFLOP/s", FLOOR)
