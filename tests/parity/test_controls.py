"""Controls: each variation matters, so a model without it must not agree with the reference."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.parity import ours, reference
from tests.parity.cases import changed
from tests.parity.weights import write_directory

LEAST = 1e-2  # a hundred times what is allowed
WITHOUT: list[tuple[str, dict[str, Any]]] = [
    ("llama-linear", {"rope_scaling": None}),
    ("llama-dynamic", {"rope_scaling": None, "max_position_embeddings": 128}),
    ("llama-llama3", {"rope_scaling": None}),
    ("llama-yarn", {"rope_scaling": None}),
    ("mistral", {"sliding_window": None}),
    ("mistral", {"sliding_window": 17}),
    ("ministral3-sliding", {"sliding_window": None}),
    ("qwen2-sliding", {"use_sliding_window": False}),
    ("qwen3-sliding", {"layer_types": ["sliding_attention"] * 3}),
    ("qwen3_moe", {"norm_topk_prob": False}),
    ("qwen3_moe", {"num_experts_per_tok": 3}),
    ("gemma3", {"query_pre_attn_scalar": 32}),
    ("gemma3", {"rope_local_base_freq": 1e6}),
    ("gemma3-caps", {"attn_logit_softcapping": None}),
    ("gemma3-caps", {"final_logit_softcapping": None}),
    ("gpt_oss", {"swiglu_limit": 7.0}),
    ("gpt_oss", {"sliding_window": 64}),
    ("phi3-partial", {"partial_rotary_factor": 1.0}),
    ("phi3-longrope-long", {"original_max_position_embeddings": 128}),
    ("smollm3", {"no_rope_layers": [1, 1, 1, 1]}),
    ("granite", {"embedding_multiplier": 1.0}),
    ("granite", {"residual_multiplier": 1.0}),
    ("granite", {"attention_multiplier": 0.25}),
    ("granite", {"logits_scaling": 1.0}),
]


@pytest.mark.parametrize(
    ("name", "changes"), WITHOUT, ids=[f"{name}-{next(iter(c))}" for name, c in WITHOUT]
)
def test_without_it_logits_differ(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    case = changed(name, **changes)
    known = reference.read(case)
    write_directory(tmp_path, case, known.tensors)
    found = ours.opened(tmp_path).logits(known.ids)[list(reference.ROWS)]
    assert np.abs(found - known.logits).max() > LEAST
