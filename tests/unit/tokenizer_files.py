"""Small vocabularies of every kind, made up for tests."""

import json
import random
from functools import cache
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from homebox.model.tokenizer.pre_tokenizers import PRE_TOKENIZERS

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VISIBLE = ("<think>", "</think>", "<tool_call>", "</tool_call>")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _lines() -> list[str]:
    dice = random.Random(3)
    words = ["the fish", " swims", "owner", "12", "(tea)", "über", " und", "\n", "don't", "日本"]
    return ["".join(dice.choices(words, k=9)) for _ in range(300)]


def _dumped(tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.add_tokens([tokenizers.AddedToken(text, normalized=False) for text in VISIBLE])
    tokenizer.add_tokens([tokenizers.AddedToken("\n\n", normalized=False)])
    raw: dict[str, Any] = json.loads(tokenizer.to_str())
    return raw


@cache
def byte_level() -> str:
    """Return a `tokenizer.json` as models with byte-level BPE have it."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(
        tokenizers.Regex(PRE_TOKENIZERS["qwen2"].steps[0]), behavior="isolated"
    )
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_lines(), trainer)
    return json.dumps(_dumped(tokenizer))


@cache
def spaced(scheme: str = "first") -> str:
    """Return a `tokenizer.json` as models with a mark for spaces have it.

    Their mark at the beginning comes from Metaspace by one of its schemes, or from normalizers.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True))
    if scheme == "normalizers":
        steps = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        tokenizer.normalizer = normalizers.Sequence(steps)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if scheme != "never" else []),
        ]
    )
    names = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, special_tokens=names)
    tokenizer.train_from_iterator(_lines(), trainer)
    raw = _dumped(tokenizer)
    # Single bytes are ordinary pieces in real files.
    raw["added_tokens"] = [t for t in raw["added_tokens"] if not t["content"].startswith("<0x")]
    return json.dumps(raw)


def byte_level_metadata(**changes: Any) -> dict[str, Any]:
    """Return the metadata of a GGUF file with the vocabulary of `byte_level`."""
    raw = json.loads(byte_level())
    added = {token["id"]: token for token in raw["added_tokens"]}
    vocabulary = {index: text for text, index in raw["model"]["vocab"].items()}
    vocabulary |= {index: token["content"] for index, token in added.items()}
    kinds = [
        (3 if added[index]["special"] else 4) if index in added else 1
        for index in range(len(vocabulary))
    ]
    values = {
        "model": "gpt2",
        "pre": "qwen2",
        "tokens": tuple(vocabulary[index] for index in range(len(vocabulary))),
        "token_type": np.array(kinds, np.int32),
        "merges": tuple(" ".join(pair) for pair in raw["model"]["merges"]),
        "eos_token_id": max(i for i, token in added.items() if token["content"] == SPECIALS[2]),
        "add_bos_token": False,
        **changes,
    }
    return {f"tokenizer.ggml.{name}": v for name, v in values.items() if v is not None}
