"""Checks `tokenizer.json` files that nobody vouches for, and writes what is used of them anew.

Format: the serialisation of the `tokenizers` package (https://huggingface.co/docs/tokenizers).
The one idea: that package never sees the file. Every part that homebox knows is checked and copied;
any other part is refused by name. Steering tokens get names that nobody can type.
Invariant: ids are unique and in range; no step makes a text much longer; patterns are short.
"""

import secrets
from dataclasses import dataclass
from typing import Any

from homebox.model.files.json_file import show
from homebox.model.tokenizer.base import MARK
from homebox.model.tokenizer.json_parts import Raw
from homebox.model.tokenizer.steps import TokenizerSteps

MAX_FILE_BYTES = 64 << 20
MAX_ITEMS = 1 << 22
_MAX_ID = 1 << 20
_MAX_TOKEN = 4096  # characters


@dataclass(frozen=True, slots=True)
class Added:
    """A token that is looked for in text before anything else; `steers` if no text may name it."""

    text: str
    index: int
    special: bool
    steers: bool


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    """A checked file: `clean` is what the package may see, `names` the new names of steering ids.

    `decoder` is "bytes" where tokens spell bytes as characters, "spaces" where they spell text with
    a mark for spaces; `strips_space` tells whether decoding takes the first space away.
    """

    clean: dict[str, Any]
    tokens: dict[int, str]
    added: tuple[Added, ...]
    names: dict[int, str]
    decoder: str
    strips_space: bool
    byte_fallback: bool
    prefix: tuple[int, ...] | None
    suffix: tuple[int, ...]


def check_tokenizer(raw: Raw, where: str) -> TokenizerFile:
    """Return what homebox uses of a decoded file; raises ModelFormatError naming the field."""
    return _Check(where).whole(raw)


class _Check(TokenizerSteps):
    """One pass over a file."""

    def whole(self, raw: Raw) -> TokenizerFile:
        model = self.part(raw, "model")
        kind = model.get("type", "BPE" if "merges" in model else None)
        if kind not in ("BPE", "Unigram"):
            raise self.fail("model.type", f"{show(kind)} is not supported; supported: BPE, Unigram")
        tokens = self.bpe_tokens(model) if kind == "BPE" else self.unigram_tokens(model)
        added = self.added(raw, tokens)
        for token in added:
            tokens[token.index] = token.text
        salt = secrets.token_hex(16)  # so that no text can spell a steering token's name
        names = {t.index: f"\ue0f0{salt}{t.index}\ue0f1" for t in added if t.steers}
        build = self.bpe if kind == "BPE" else self.unigram
        clean = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": self.added_list(raw, added, names),
            "normalizer": self.normalizer(raw.get("normalizer"), "normalizer"),
            "pre_tokenizer": self.pre_tokenizer(raw.get("pre_tokenizer"), "pre_tokenizer"),
            "post_processor": None,
            "decoder": None,
            "model": build(model, tokens, added, names),
        }
        decoder, strips = self.decoder(raw.get("decoder"))
        prefix, suffix = self.surround(raw.get("post_processor"), tokens)
        fallback = bool(model.get("byte_fallback", False))
        return TokenizerFile(clean, tokens, added, names, decoder, strips, fallback, prefix, suffix)

    def bpe_tokens(self, model: Raw) -> dict[int, str]:
        vocabulary = self.part(model, "vocab", "model.vocab")
        tokens: dict[int, str] = {}
        for text, index in vocabulary.items():
            if type(index) is not int or not 0 <= index < _MAX_ID:
                raise self.fail("model.vocab", f"{show(text)} has the id {show(index)}")
            if index in tokens:
                raise self.fail("model.vocab", f"{show(text)} has the id of {show(tokens[index])}")
            if len(text) > _MAX_TOKEN:
                raise self.fail(
                    "model.vocab", f"token {index} is longer than {_MAX_TOKEN} characters"
                )
            tokens[index] = text
        return tokens

    def unigram_tokens(self, model: Raw) -> dict[int, str]:
        entries = self.entries(model, "vocab", "model.vocab", _MAX_ID)
        tokens: dict[int, str] = {}
        for index, entry in enumerate(entries):
            if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
                raise self.fail(f"model.vocab[{index}]", "must be a text with a score")
            if type(entry[1]) not in (int, float) or not abs(entry[1]) < 1e9:
                raise self.fail(f"model.vocab[{index}]", f"the score is {show(entry[1])}")
            if len(entry[0]) > _MAX_TOKEN:
                raise self.fail(f"model.vocab[{index}]", f"longer than {_MAX_TOKEN} characters")
            tokens[index] = entry[0]
        if len(set(tokens.values())) != len(tokens):
            raise self.fail("model.vocab", "a token occurs twice")
        return tokens

    def added(self, raw: Raw, tokens: dict[int, str]) -> tuple[Added, ...]:
        ids = {text: index for index, text in tokens.items()}
        found: dict[int, Added] = {}
        texts: set[str] = set()
        for number, entry in enumerate(self.entries(raw, "added_tokens", "added_tokens", _MAX_ID)):
            field = f"added_tokens[{number}]"
            if not isinstance(entry, dict):
                raise self.fail(field, "must be an object")
            text, index = entry.get("content"), entry.get("id")
            if not isinstance(text, str) or not 0 < len(text) <= _MAX_TOKEN:
                raise self.fail(f"{field}.content", f"must be a text, not {show(text)}")
            if type(index) is not int or not 0 <= index < _MAX_ID:
                raise self.fail(
                    f"{field}.id", f"must be from 0 to {_MAX_ID - 1}, not {show(index)}"
                )
            if index in found or text in texts:
                raise self.fail(field, f"{show(text)} or its id {index} occurs twice")
            if ids.get(text, index) != index or tokens.get(index, text) != text:
                raise self.fail(
                    field, f"{show(text)} has the id {index}, which differs from model.vocab"
                )
            special = self.flag(entry, "special", f"{field}.special")
            steers = special or MARK.fullmatch(text) is not None
            found[index] = Added(text, index, special, steers)
            texts.add(text)
        return tuple(found.values())

    def added_list(
        self, raw: Raw, added: tuple[Added, ...], names: dict[int, str]
    ) -> list[dict[str, Any]]:
        entries = {entry["id"]: entry for entry in raw.get("added_tokens") or ()}
        return [
            {
                "id": token.index,
                "content": names.get(token.index, token.text),
                "special": token.special,
                **{
                    name: self.flag(entries[token.index], name, f"added_tokens: {name}")
                    for name in ("single_word", "lstrip", "rstrip", "normalized")
                },
            }
            for token in added
        ]

    def bpe(
        self,
        model: Raw,
        tokens: dict[int, str],
        added: tuple[Added, ...],
        names: dict[int, str],
    ) -> dict[str, Any]:
        for name in ("continuing_subword_prefix", "end_of_word_suffix"):
            if model.get(name):
                raise self.fail(f"model.{name}", f"{show(model[name])} is not supported")
        unknown = model.get("unk_token")
        if unknown is not None and unknown not in tokens.values():
            raise self.fail("model.unk_token", f"{show(unknown)} is no token")
        steering = {token.text: names[token.index] for token in added if token.steers}
        return {
            "type": "BPE",
            "dropout": None,
            "unk_token": steering.get(unknown, unknown) if unknown is not None else None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": self.flag(model, "fuse_unk", "model.fuse_unk"),
            "byte_fallback": self.flag(model, "byte_fallback", "model.byte_fallback"),
            "ignore_merges": self.flag(model, "ignore_merges", "model.ignore_merges"),
            "vocab": {names.get(index, text): index for index, text in tokens.items()},
            "merges": self.merges(model, set(steering)),
        }

    def merges(self, model: Raw, steering: set[str]) -> list[list[str]]:
        pairs = []
        for number, entry in enumerate(self.entries(model, "merges", "model.merges", _MAX_ID)):
            pair = entry.split(" ") if isinstance(entry, str) else entry
            if not isinstance(pair, list) or len(pair) != 2:
                raise self.fail(f"model.merges[{number}]", f"must be two tokens, not {show(entry)}")
            left, right = pair
            if not isinstance(left, str) or not isinstance(right, str):
                raise self.fail(f"model.merges[{number}]", f"must be two tokens, not {show(entry)}")
            if left in steering or right in steering or left + right in steering:
                continue
            pairs.append([left, right])
        return pairs

    def unigram(
        self,
        model: Raw,
        tokens: dict[int, str],
        added: tuple[Added, ...],
        names: dict[int, str],
    ) -> dict[str, Any]:
        scores = [entry[1] for entry in model.get("vocab") or []]
        beyond = sorted(token.index for token in added if token.index >= len(scores))
        if beyond != list(range(len(scores), len(scores) + len(beyond))):
            raise self.fail("added_tokens", "their ids leave gaps behind model.vocab")
        unknown = model.get("unk_id")
        if unknown is not None and (type(unknown) is not int or not 0 <= unknown < len(scores)):
            raise self.fail("model.unk_id", f"{show(unknown)} is no id")
        entries = [[names.get(i, tokens[i]), score] for i, score in enumerate(scores)]
        lowest = min(scores, default=0.0) - 10.0
        entries += [[names.get(i, tokens[i]), lowest] for i in beyond]
        fallback = self.flag(model, "byte_fallback", "model.byte_fallback")
        return {"type": "Unigram", "unk_id": unknown, "vocab": entries, "byte_fallback": fallback}
