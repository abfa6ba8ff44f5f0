"""What tests without a compiler share: a vocabulary of a real size takes seconds to read."""

from pathlib import Path

import pytest

from homebox.model.tokenizer import load_tokenizer
from homebox.model.tokenizer.base import Tokenizer


@pytest.fixture(scope="session")
def qwen3(shared: Path) -> Tokenizer:
    """Return the vocabulary of Qwen3; whoever wants other settings takes a copy."""
    return load_tokenizer(shared / "data/tokenizers/qwen3-rebuilt-tokenizer.json")
