"""The rules that cut text into words before BPE, by the names that GGUF files give them.

Names as in llama.cpp (src/llama-vocab.cpp); patterns as the models' own tokenizers have them.
Each rule is a row of steps: a pattern whose matches, and the texts between them, go on separately.
"""

from dataclasses import dataclass
from typing import Any

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_BLANK = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = r"[^\r\n\p{L}\p{N}]?" + _UPPER, _LOWER


def _cased(end: str) -> str:
    """A word is cut where small letters are followed by a capital."""
    lead, small = _CASED
    return f"{lead}*{small}+{end}|{lead}+{small}*{end}"


_CHATML = "|".join((_CONTRACTION, _WORD, r"\p{N}", _SIGNS, _BLANK))
_MARKED = "|".join(
    (
        _CONTRACTION,
        r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
        _BLANK,
    )
)
_LLAMA3 = "|".join((_CONTRACTION, _WORD, r"\p{N}{1,3}", _SIGNS, _BLANK))
_SLASHED = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_TEKKEN = "|".join((_cased(""), r"\p{N}", _SLASHED, _BLANK))
_O200K = "|".join((_cased(_CONTRACTION + "?"), r"\p{N}{1,3}", _SLASHED, _BLANK))
_CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK3 = "|".join(
    (
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+""",
        r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+",
        r" ?[\p{P}\p{S}]+[\r\n]*",
        _BLANK,
    )
)
_POSSESSIVE = "'(?i:[sdmt]|ll|ve|re)"


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How text is cut; with `whole_words` a word that is a token is that token, merges or not."""

    steps: tuple[str, ...]
    whole_words: bool = False
    begins: bool = False  # whether a text begins with the begin token unless the file says so

    def spec(self) -> dict[str, Any]:
        """Return the steps as the `tokenizers` package describes them, ending in bytes."""
        splits: list[dict[str, Any]] = [
            {"type": "Split", "pattern": {"Regex": step}, "behavior": "Isolated", "invert": False}
            for step in self.steps
        ]
        level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
        return {"type": "Sequence", "pretokenizers": [*splits, level]}


DEFAULT = PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))
_RULES: dict[str, PreTokenizer] = {
    "default": DEFAULT,
    "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2": PreTokenizer(
        (_LLAMA3,), whole_words=True, begins=True
    ),
    "dbrx smaug-bpe glm4 chatglm-bpe": PreTokenizer((_LLAMA3,)),
    "gpt-2 phi-2 mpt olmo jais trillion granite-docling exaone4 mellum gigachat a.x-4.0 "
    "jina-es jina-de jina-v1-en jina-v2-es jina-v2-de jina-v2-code roberta-bpe": PreTokenizer(
        (_GPT2,)
    ),
    "qwen2 deepseek-r1-qwen stablelm2 hunyuan megrez grok-2 kormo f2llmv2": PreTokenizer(
        (_CHATML,)
    ),
    "qwen35": PreTokenizer((_MARKED,)),
    "smollm starcoder refact command-r codeshell exaone minerva-7b": PreTokenizer(
        (r"\p{N}", _GPT2)
    ),
    "tekken": PreTokenizer((_TEKKEN,), whole_words=True, begins=True),
    "gpt-4o llama4 minimax-m2": PreTokenizer((_O200K,)),
    "deepseek-v3 hunyuan-dense": PreTokenizer((r"\p{N}{1,3}", _CJK, _DEEPSEEK3)),
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")),
    "bailingmoe bailingmoe2 llada-moe": PreTokenizer(
        ("|".join((_POSSESSIVE, _WORD, r"\p{N}", _SIGNS, r"\s*[\r\n]|\s+(?!\S)|\s+")),)
    ),
    "seed-coder": PreTokenizer(
        ("|".join((_CONTRACTION, _WORD, r"\p{N}", r" ?[^\s\p{L}\p{N}\r\n]+", _BLANK)),)
    ),
    "poro-chat bloom gpt3-finnish": PreTokenizer(
        (" ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+",)
    ),
    "viking": PreTokenizer(
        (" ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+", r"\p{N}")
    ),
    "superbpe": PreTokenizer((r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
}
PRE_TOKENIZERS = {name: rule for names, rule in _RULES.items() for name in names.split()}
