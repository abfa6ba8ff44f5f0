"""Makes a model for bench/serving.py of another one and a vocabulary.

`python -m bench.serving_model IN.gguf OUT.gguf TOKENIZER.json TEMPLATE.jinja`. Replayed requests
must be as long as they were. So the tensors of a GGUF file (random ones are good enough for speed)
get a real vocabulary, cut to the size that the model has, a template that writes tools, and a
context in which the requests fit. Needs the `gguf` package.
"""

import json
import sys
from pathlib import Path
from typing import Any

import gguf

CONTEXT = 40960
REPLACED = ("tokenizer.", "general.architecture", "GGUF.")
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # as in ggml


def vocabulary(tokenizer: dict[str, Any], size: int) -> tuple[list[str], list[int], list[str]]:
    """Return tokens, their kinds and merges of a byte-level BPE, cut to `size` tokens.

    A vocabulary in the order of its merges stays one when its end is cut off; the added tokens
    keep their order and come last.
    """
    added = tokenizer["added_tokens"]
    by_id = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    kept = [token for token, _ in by_id[: size - len(added)]]
    known = set(kept)
    pairs = tokenizer["model"]["merges"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]
    merges = [pair for pair in merges if pair.replace(" ", "", 1) in known]
    tokens = [*kept, *(item["content"] for item in added)]
    kinds = [NORMAL] * len(kept)
    kinds += [CONTROL if item["special"] else USER_DEFINED for item in added]
    unused = size - len(tokens)
    tokens += [f"[unused{number}]" for number in range(unused)]
    return tokens, kinds + [UNUSED] * unused, merges


def rewrite(source: Path, target: Path, tokenizer: dict[str, Any], template: str) -> None:
    """Write `target` with the tensors of `source` and another vocabulary."""
    reader = gguf.GGUFReader(source)
    architecture = reader.get_field("general.architecture").contents()
    writer = gguf.GGUFWriter(target, architecture)
    for key, field in reader.fields.items():
        if key.startswith(REPLACED) or key == f"{architecture}.context_length":
            continue
        kind = field.types[0]
        part = field.types[1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, part)
    writer.add_context_length(CONTEXT)
    size = int(reader.get_field(f"{architecture}.vocab_size").contents())
    tokens, kinds, merges = vocabulary(tokenizer, size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    source, target, tokenizer, template = (Path(argument) for argument in sys.argv[1:5])
    words = json.loads(tokenizer.read_text("utf-8"))
    rewrite(source, target, words, template.read_text("utf-8"))


if __name__ == "__main__":
    main()
