"""What llama.cpp says about a GGUF file: logits and greedy ids, keys and values in float32."""

import math
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt

from tests.parity.cases import CONTEXT, NEW

Int32 = npt.NDArray[np.int32]


class LlamaPeer:
    """llama.cpp's model of a file, on one thread, without its fused attention."""

    def __init__(self, path: Path) -> None:
        self.model = llama_cpp.Llama(
            str(path),
            n_ctx=CONTEXT,
            n_batch=CONTEXT,
            n_threads=1,
            n_threads_batch=1,
            type_k=llama_cpp.GGML_TYPE_F32,
            type_v=llama_cpp.GGML_TYPE_F32,
            flash_attn=False,
            logits_all=True,
            verbose=False,
        )

    def logits(self, ids: Int32) -> npt.NDArray[np.float32]:
        """Return the logits after each id."""
        self.model.reset()
        self.model.eval([int(i) for i in ids])
        return np.array(self.model.scores[: len(ids)], np.float32)

    def greedy(self, prompt: Int32) -> tuple[list[int], float]:
        """Return the likeliest ids after a prompt, and the least lead of one over the next."""
        self.model.reset()
        self.model.eval([int(i) for i in prompt])
        found: list[int] = []
        lead = math.inf
        for _ in range(NEW):
            scores = self.model.scores[self.model.n_tokens - 1]
            first, second = np.sort(scores)[-1:-3:-1]
            lead = min(lead, float(first - second))
            found.append(int(np.argmax(scores)))
            self.model.eval(found[-1:])
        return found, lead

    def close(self) -> None:
        """Give its memory back."""
        self.model.close()
