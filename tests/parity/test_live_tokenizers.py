"""Conversations and words in transformers and llama.cpp themselves; leaves their ids in tests/null.

Run by `make parity`. The vocabularies and templates are of the shared data, hence real ones.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest

transformers = pytest.importorskip("transformers")
llama_cpp = pytest.importorskip("llama_cpp")
gguf = pytest.importorskip("gguf")

from homebox.errors import RequestError  # noqa: E402
from homebox.model.chat.template_chat import TemplateChat  # noqa: E402
from homebox.model.gguf import GGUFFile  # noqa: E402
from homebox.model.tokenizer.load import load_tokenizer  # noqa: E402
from homebox.model.tokenizer.pre_tokenizers import PRE_TOKENIZERS  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

NULL = Path(__file__).parents[1] / "null"
PARTS = (
    *("hello", "\n", "  ", " ", "ü", "e\u0301", "日本", "🎣", "<", "[", "'s", "123", "{", "\t"),
    *("</div>", "<|", "\u00a0", "\u200d", "Ⅷ"),
)
WORDS = (
    *("hello", "World", "HELLO", "tHe", " ", "  ", "\n", "\r\n", "\t", "'s", "'LL", "'Re", "1"),
    *("23", "4567", "12345678", "ü", "É", "日本語", "ひらがな", "カタカナ", "한국", "🎣", "<|x|>"),
    *("[", "](", "...", "!!", "$", "+", "^", "~", "|", "`", "_", "-", "/", "//", "\u00a0", "Ⅷ"),
    *("½", "٣", "ǅ", "ß", "don't", "DON'T", "camelCase", "HTMLParser", "，", "。", "¿", "\\", "{"),
)
CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "add_bos_token": False,
}
EACH = 12  # conversations per template, of which KEPT are kept
KEPT = 3
TEXTS, KEPT_TEXTS = 300, 40
KEPT_RULES = ("default", "llama-bpe", "qwen2", "smollm", "tekken", "gpt-4o")


def written(name: str, rows: list[dict[str, Any]]) -> None:
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (NULL / name).write_text(f"[\n{lines}\n]\n")


def conversation(dice: random.Random) -> list[dict[str, str]]:
    def text() -> str:
        return "".join(dice.choices(PARTS, k=dice.randint(0, 9)))

    messages = [{"role": "system", "content": text()}] if dice.random() < 0.4 else []
    for _ in range(dice.randint(1, 2)):
        messages.append({"role": "user", "content": f"u{text()}"})
        messages.append({"role": "assistant", "content": f"v{text()}"})
    return messages[:-1] if dice.random() < 0.6 else messages


def test_conversations_have_the_ids_of_transformers(shared: Path, tmp_path: Path) -> None:
    cases = json.loads((shared / "data/templates/chat_template_cases.json").read_text())
    source = shared / "data/tokenizers/qwen3-rebuilt-tokenizer.json"
    (tmp_path / "tokenizer.json").write_bytes(source.read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    ours = load_tokenizer(tmp_path)
    dice = random.Random(1)
    rows = []
    for case in cases:
        chat = TemplateChat(ours, case["template"])
        theirs.chat_template = case["template"]
        for number in range(EACH):
            messages, prompt = conversation(dice), dice.random() < 0.5
            try:
                wanted = theirs.apply_chat_template(
                    messages, add_generation_prompt=prompt, return_dict=False
                )
            except Exception:
                wanted = None  # the template refuses it
            try:
                found = chat.render(messages, prompt)
            except RequestError:
                found = None
            assert found == wanted, (case["name"], messages)
            if number < KEPT:
                row = {"name": case["name"], "messages": messages, "prompt": prompt}
                rows.append({**row, "ids": wanted})
    written("chat_ids.json", rows)


def test_words_have_the_ids_of_llama_cpp(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/tokenizers/ggml-vocab-gpt-2.gguf"
    dice = random.Random(3)
    texts = ["".join(dice.choices(WORDS, k=dice.randint(2, 12))) for _ in range(TEXTS)]
    rows = []
    for name in PRE_TOKENIZERS:
        path = tmp_path / f"{name}.gguf"
        write_vocabulary(path, GGUFFile(source).metadata, name)
        try:
            peer = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
        except ValueError:
            continue  # a name that this version does not know
        ours = load_tokenizer(path)
        ids = [peer.tokenize(text.encode(), add_bos=False, special=False) for text in texts]
        for text, wanted in zip(texts, ids, strict=True):
            assert ours.encode(text, add_special=False) == wanted, (name, text)
        if name in KEPT_RULES:
            rows.append({"rule": name, "ids": dict(zip(texts[:KEPT_TEXTS], ids, strict=False))})
        path.unlink()
    assert len(rows) == len(KEPT_RULES)
    written("word_ids.json", rows)


def write_vocabulary(path: Path, metadata: Any, rule: str) -> None:
    """Write a model without weights that has GPT-2's vocabulary and another rule for words."""
    writer = gguf.GGUFWriter(str(path), "llama")
    tokens = list(metadata["tokenizer.ggml.tokens"])
    writer.add_context_length(128)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokens)
    writer.add_token_types([int(kind) for kind in metadata["tokenizer.ggml.token_type"]])
    writer.add_token_merges(list(metadata["tokenizer.ggml.merges"]))
    writer.add_bos_token_id(50256)
    writer.add_eos_token_id(50256)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
