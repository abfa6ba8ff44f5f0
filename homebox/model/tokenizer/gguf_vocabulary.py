"""Makes a tokenizer of the metadata of a GGUF file.

Format: the keys `tokenizer.ggml.*` (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
Two kinds: "llama" is a sentencepiece BPE vocabulary with scores, "gpt2" a byte-level BPE vocabulary
with merges and the name of a rule that cuts text into words. Both go through the checks that such
vocabularies from other files go through.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from homebox.errors import ModelFormatError
from homebox.model.files.json_file import show
from homebox.model.tokenizer.base import Settings, Tokenizer
from homebox.model.tokenizer.json_tokenizer import JsonTokenizer, byte_characters
from homebox.model.tokenizer.json_tokenizer_file import check_tokenizer
from homebox.model.tokenizer.pre_tokenizers import DEFAULT, PRE_TOKENIZERS, PreTokenizer
from homebox.model.tokenizer.sentencepiece_file import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
    VocabularyPiece,
    byte_of,
    check_pieces,
)
from homebox.model.tokenizer.sentencepiece_tokenizer import SentencePieceTokenizer
from homebox.model.tokenizer.settings import END_MARKS, WITH_TOOLS, bounded_template, end_ids

log = logging.getLogger(__name__)

_PREFIX = "tokenizer.ggml."
_MAX_TOKENS = 1 << 20
_MAX_TOKEN = 4096  # characters
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
_NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}

Metadata = Mapping[str, Any]


def tokenizer_of(metadata: Metadata, where: str) -> Tokenizer:
    """Return the tokenizer that the metadata of a GGUF file describe.

    `metadata` maps keys to numbers, texts, tuples of texts and arrays. Raises ModelFormatError
    naming `where` and the key.
    """
    fields = _Fields(metadata, where)
    kind = fields.text("model")
    if kind == "llama":
        return _sentencepiece(fields)
    if kind == "gpt2":
        return _byte_level(fields)
    raise fields.fail("model", f"{show(kind)} is not supported; supported: llama, gpt2")


class _Fields:
    """Typed access to the keys of a vocabulary; every failure names the key."""

    def __init__(self, metadata: Metadata, where: str) -> None:
        self.metadata = metadata
        self.where = where
        self.tokens = self.texts("tokens")
        if not 0 < len(self.tokens) <= _MAX_TOKENS:
            raise self.fail("tokens", f"there are {len(self.tokens)}, from 1 to {_MAX_TOKENS} fit")
        self.kinds = self._kinds()

    def fail(self, name: str, reason: str) -> ModelFormatError:
        return ModelFormatError(f"{self.where}: {_PREFIX}{name}: {reason}")

    def get(self, name: str) -> Any:
        return self.metadata.get(_PREFIX + name)

    def text(self, name: str, default: str | None = None) -> str:
        value = self.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.fail(name, f"must be a text, not {show(value)}")
        return value

    def texts(self, name: str) -> Sequence[str]:
        value = self.get(name)
        if not isinstance(value, tuple | list) or not all(isinstance(t, str) for t in value):
            raise self.fail(name, "must be a list of texts")
        if any(len(text) > _MAX_TOKEN for text in value):
            raise self.fail(name, f"one is longer than {_MAX_TOKEN} characters")
        return value

    def numbers(self, name: str) -> list[float] | None:
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, np.ndarray) or value.shape != (len(self.tokens),):
            raise self.fail(name, "must be a list with a number for each token")
        return [float(number) for number in value.tolist()]

    def flag(self, name: str, default: bool) -> bool:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fail(name, f"must be true or false, not {show(value)}")
        return value

    def token(self, name: str, default: int | None = None) -> int | None:
        """Return the id of a named token; one outside of the vocabulary counts as none."""
        value = self.get(name)
        if value is None:
            return default if default is not None and default < len(self.tokens) else None
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail(name, f"must be a token id, not {show(value)}")
        if 0 <= value < len(self.tokens):
            return value
        log.warning("%s: %s%s: %d is no token; ignored", self.where, _PREFIX, name, value)
        return None

    def _kinds(self) -> list[int]:
        """Return the kind of each token; those that end turns are control tokens in any case."""
        numbers = self.numbers("token_type") or [NORMAL] * len(self.tokens)
        kinds = [int(number) for number in numbers if NORMAL <= number <= BYTE]
        if len(kinds) != len(numbers):
            raise self.fail("token_type", f"must be from {NORMAL} to {BYTE}")
        for index, text in enumerate(self.tokens):
            if text in END_MARKS and kinds[index] in (NORMAL, USER_DEFINED):
                kinds[index] = CONTROL
        return kinds

    def settings(self, begins: bool, bos: int | None, eos: int | None) -> Settings:
        bos, eos = self.token("bos_token_id", bos), self.token("eos_token_id", eos)
        prefix = (bos,) if self.flag("add_bos_token", begins) and bos is not None else ()
        suffix = (eos,) if self.flag("add_eos_token", False) and eos is not None else ()
        ids = {text: i for i, text in enumerate(self.tokens) if self.kinds[i] == CONTROL}
        ends = [eos, *(self.token(name) for name in _ENDS), *end_ids(ids.get)]
        named = {"bos_token": bos, "eos_token": eos}
        named |= {name: self.token(key) for name, key in _NAMED.items() if name not in named}
        return Settings(
            prefix=prefix,
            suffix=suffix,
            end_ids=tuple(dict.fromkeys(index for index in ends if index is not None)),
            template=self.template("tokenizer.chat_template"),
            tool_template=self.template(f"tokenizer.chat_template.{WITH_TOOLS}"),
            variables=tuple((k, self.tokens[i]) for k, i in named.items() if i is not None),
        )

    def template(self, key: str) -> str | None:
        """Return one of the file's chat templates, if it is there."""
        found = self.metadata.get(key)
        return None if found is None else bounded_template(found, f"{self.where}: {key}")


def _sentencepiece(fields: _Fields) -> Tokenizer:
    """Return the tokenizer of a "llama" vocabulary.

    Defaults as in llama.cpp: a space is put before the text, the begin token before that.
    """
    scores = fields.numbers("scores") or [0.0] * len(fields.tokens)
    if not all(map(math.isfinite, scores)):
        raise fields.fail("scores", "one is not finite")
    kinds = list(fields.kinds)
    unknown = fields.token("unknown_token_id", 0) or 0
    if UNKNOWN not in kinds:
        kinds[unknown] = UNKNOWN
    pieces = tuple(
        VocabularyPiece(*entry) for entry in zip(fields.tokens, scores, kinds, strict=True)
    )
    if any(not piece.text or "\0" in piece.text for piece in pieces):
        raise fields.fail("tokens", "one is empty or holds a NUL character")
    vocabulary = Vocabulary(
        pieces=pieces,
        kind="bpe",
        byte_fallback=any(byte_of(p.text) is not None and p.kind == BYTE for p in pieces),
        space_as_suffix=False,
        unknown_surface=" \u2047 ",
        charsmap=b"",
        add_dummy_prefix=fields.flag("add_space_prefix", True),
        remove_extra_whitespaces=fields.flag("remove_extra_whitespaces", False),
        escape_whitespaces=True,
    )
    where = f"{fields.where}: {_PREFIX}tokens"
    check_pieces(vocabulary, where)
    settings = replace(fields.settings(True, 1, 2), swallowing=_swallowing(fields))
    return SentencePieceTokenizer(vocabulary, where, settings)


def _swallowing(fields: _Fields) -> frozenset[int]:
    """Return the tokens that swallow the blanks behind them, which only Phi-3's do.

    GGUF files do not say it; llama.cpp knows it by the model as well (src/llama-vocab.cpp).
    """
    if fields.metadata.get("general.architecture") != "phi3":
        return frozenset()
    keeping = ("<unk>", "<s>", "<|endoftext|>")
    return frozenset(
        index
        for index, text in enumerate(fields.tokens)
        if text == "</s>"
        or (fields.kinds[index] in (CONTROL, USER_DEFINED) and text not in keeping)
    )


def _byte_level(fields: _Fields) -> Tokenizer:
    rule = _rule(fields)
    ids = {text: index for index, text in enumerate(fields.tokens) if text}
    if len(ids) < sum(map(bool, fields.tokens)):
        raise fields.fail("tokens", "one occurs twice")
    added = [
        {
            "id": index,
            "content": fields.tokens[index],
            "special": kind in (CONTROL, UNKNOWN),
        }
        for index, kind in enumerate(fields.kinds)
        if kind in (CONTROL, UNKNOWN, USER_DEFINED) and fields.tokens[index]
    ]
    raw = {
        "added_tokens": added,
        "pre_tokenizer": rule.spec(),
        "decoder": {"type": "ByteLevel"},
        "model": {
            "type": "BPE",
            "vocab": {t: i for t, i in ids.items() if fields.kinds[i] != UNUSED},
            "merges": _merges(fields, ids),
            "ignore_merges": rule.whole_words,
        },
    }
    file = check_tokenizer(raw, fields.where)
    missing = [text for text in byte_characters() if text not in ids]
    if missing:
        log.warning("%s: %d of 256 bytes have no token and are lost", fields.where, len(missing))
    settings = fields.settings(rule.begins, None, None)
    return JsonTokenizer(file, fields.where, settings)


def _rule(fields: _Fields) -> PreTokenizer:
    name = fields.text("pre", "default")
    rule = PRE_TOKENIZERS.get(name)
    if rule is None:
        log.warning(
            "%s: %spre: %s is not known; words are cut by the default rule, answers may suffer",
            fields.where,
            _PREFIX,
            show(name),
        )
        return DEFAULT
    return rule


def _merges(fields: _Fields, ids: Mapping[str, int]) -> list[list[str]]:
    """Return the merges of known tokens; others could never be used."""
    pairs = []
    for number, text in enumerate(fields.texts("merges")):
        place = text.find(" ", 1)
        if place < 0:
            raise fields.fail(f"merges[{number}]", f"must be two tokens, not {show(text)}")
        left, right = text[:place], text[place + 1 :]
        if left in ids and right in ids and left + right in ids:
            pairs.append([left, right])
    return pairs
