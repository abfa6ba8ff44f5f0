"""Writes the model that the clients talk to: a small random Qwen3 with Qwen3's own vocabulary.

The one idea: tokens, template and marks are those of the real family, so that prompts are as long
as with a real model, while a layer costs next to nothing. Invariant: the same folder every time.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

CONTEXT = 32768
TEMPLATE_OF = "Qwen/Qwen3-0.6B"
END_OF_TEXT, START, END = 151643, 151644, 151645

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": 151669,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": None,
    "bos_token_id": END_OF_TEXT,
    "eos_token_id": END,
    "torch_dtype": "float32",
}


def write_qwen3(folder: Path, shared: Path) -> Path:
    """Write the model's files into `folder`; vocabulary and template come from `shared`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = (shared / "data/tokenizers/qwen3-rebuilt-tokenizer.json").read_text("utf-8")
    (folder / "tokenizer.json").write_text(tokenizer, "utf-8")
    cases = json.loads((shared / "data/templates/chat_template_cases.json").read_text("utf-8"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": CONTEXT,
        "chat_template": next(case["template"] for case in cases if case["name"] == TEMPLATE_OF),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    generation = {"eos_token_id": [END, END_OF_TEXT]}
    (folder / "generation_config.json").write_text(json.dumps(generation), "utf-8")
    (folder / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    save_file(random_weights(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def random_weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Return the tensors of a Qwen3 by their usual names, float32."""
    random = np.random.default_rng(seed)
    hidden, inner, head = (CONFIG[key] for key in ("hidden_size", "intermediate_size", "head_dim"))
    queries = CONFIG["num_attention_heads"] * head
    keys = CONFIG["num_key_value_heads"] * head

    def normal(*shape: int) -> np.ndarray:
        return random.normal(0.0, 0.05, shape).astype(np.float32)

    def gain(size: int) -> np.ndarray:
        return (1.0 + random.normal(0.0, 0.1, size)).astype(np.float32)

    found = {"model.embed_tokens.weight": normal(CONFIG["vocab_size"], hidden)}
    found["model.norm.weight"] = gain(hidden)
    for layer in range(CONFIG["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        found |= {
            f"{name}.input_layernorm.weight": gain(hidden),
            f"{name}.post_attention_layernorm.weight": gain(hidden),
            f"{name}.self_attn.q_proj.weight": normal(queries, hidden),
            f"{name}.self_attn.k_proj.weight": normal(keys, hidden),
            f"{name}.self_attn.v_proj.weight": normal(keys, hidden),
            f"{name}.self_attn.o_proj.weight": normal(hidden, queries),
            f"{name}.self_attn.q_norm.weight": gain(head),
            f"{name}.self_attn.k_norm.weight": gain(head),
            f"{name}.mlp.gate_proj.weight": normal(inner, hidden),
            f"{name}.mlp.up_proj.weight": normal(inner, hidden),
            f"{name}.mlp.down_proj.weight": normal(hidden, inner),
        }
    return found
