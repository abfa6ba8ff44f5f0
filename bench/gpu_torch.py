"""PyTorch on a GPU, as a peer: `python -m bench.gpu_torch --model DIR`, one JSON line a metric.

bfloat16, scaled-dot-product attention, a static cache and torch.compile with CUDA graphs for
decode; LoRA on all linear layers, as homebox trains it. Times are those of the device's own events.
Weights are drawn by lot on the device: speed does not depend on them. Runs on the CPU too, slowly,
so that the script itself can be tried without a GPU.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPT, DEEP, BEGIN, STEPS, RANK = 512, 2000, 8, 32, 16


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True, help="a directory with config.json")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", default="prefill_512,decode_ctx0,decode_ctx2000,lora_step")
    parser.add_argument("--shape", default="2x256", help="of a training batch")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    args = parser.parse_args()
    peer = Peer(args.model, args.device, compiled=not args.eager)
    for metric in args.only.split(","):
        if metric == "lora_step":
            rows, length = map(int, args.shape.split("x"))
            print(json.dumps(peer.train(rows, length)), flush=True)
        else:
            print(json.dumps(peer.serve(metric)), flush=True)


class Peer:
    def __init__(self, directory: Path, device: str, compiled: bool) -> None:
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        self.torch, self.transformers = torch, transformers
        self.device, self.compiled = device, compiled
        if device.startswith("cuda"):
            torch.cuda.set_device(device if ":" in device else 0)
        self.config = transformers.AutoConfig.from_pretrained(directory)
        torch.manual_seed(0)
        with torch.device(device):
            self.model = transformers.AutoModelForCausalLM.from_config(
                self.config, dtype=torch.bfloat16, attn_implementation="sdpa"
            ).eval()

    def row(self, metric: str, seconds: list[float], tokens: int) -> dict[str, Any]:
        median = statistics.median(seconds)
        name = self.device
        if name.startswith("cuda"):
            name = self.torch.cuda.get_device_name()
        return {
            "metric": metric,
            "value": tokens / median,
            "unit": "tok/s",
            "engine": f"torch {self.torch.__version__}{'' if self.compiled else ' eager'}",
            "device": name,
            "runs": len(seconds),
        }

    def timed(self, work: Callable[[], object], rounds: int = 7) -> list[float]:
        for _ in range(3):
            work()
        return [self._once(work) for _ in range(rounds)]

    def _once(self, work: Callable[[], object]) -> float:
        cuda = self.torch.cuda
        if not self.device.startswith("cuda"):
            began = time.perf_counter()
            work()
            return time.perf_counter() - began
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        cuda.synchronize()
        start.record()
        work()
        end.record()
        cuda.synchronize()
        return float(start.elapsed_time(end)) / 1000

    # -- serving --------------------------------------------------------------------------------

    def serve(self, metric: str) -> dict[str, Any]:
        torch = self.torch
        mode = "reduce-overhead" if self.device.startswith("cuda") else "default"
        forward = self.model
        if self.compiled:
            forward = torch.compile(self.model, mode=mode, dynamic=False)
        at = {"decode_ctx0": BEGIN, "decode_ctx2000": DEEP}.get(metric, PROMPT)
        ids = torch.randint(0, self.config.vocab_size, (1, at), device=self.device)

        def step(tokens: Any, places: Any, cache: Any) -> Any:
            out = forward(
                input_ids=tokens, cache_position=places, past_key_values=cache, logits_to_keep=1
            )
            return out.logits[:, -1].argmax(-1, keepdim=True)

        def fresh() -> Any:
            return self.transformers.StaticCache(config=self.config, max_cache_len=at + STEPS)

        with torch.inference_mode():
            every = torch.arange(at, device=self.device)
            if metric == "prefill_512":
                cache = fresh()

                def prompt() -> None:
                    rewind(cache, 0)
                    step(ids, every, cache)

                return self.row(metric, self.timed(prompt), at)
            cache = fresh()
            state = {"ids": self._prefill(ids, every, cache)}
            places = [torch.tensor([at + i], device=self.device) for i in range(STEPS)]

            def burst() -> None:
                for place in places:
                    state["ids"] = step(state["ids"], place, cache).clone()
                rewind(cache, at)

            return self.row(metric, self.timed(burst), STEPS)

    def _prefill(self, ids: Any, every: Any, cache: Any) -> Any:
        """Fill the cache without compiling a program for this length."""
        out = self.model(
            input_ids=ids, cache_position=every, past_key_values=cache, logits_to_keep=1
        )
        return out.logits[:, -1].argmax(-1, keepdim=True)

    # -- training -------------------------------------------------------------------------------

    def train(self, rows: int, length: int) -> dict[str, Any]:
        import peft

        torch = self.torch
        targets = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
        wanted = peft.LoraConfig(
            r=RANK, lora_alpha=2 * RANK, task_type="CAUSAL_LM", target_modules=targets
        )
        model = peft.get_peft_model(self.model, wanted).train()
        optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        forward = torch.compile(model, dynamic=False) if self.compiled else model
        ids = torch.randint(0, self.config.vocab_size, (rows, length), device=self.device)

        def step() -> None:
            forward(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        row = self.row("lora_step", self.timed(step), rows * length)
        return row | {"shape": f"{rows}x{length}"}


def rewind(cache: Any, length: int) -> None:
    """Let a static cache hold `length` tokens again; older versions count by cache_position."""
    for layer in cache.layers:
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length.fill_(length)


if __name__ == "__main__":
    main()
