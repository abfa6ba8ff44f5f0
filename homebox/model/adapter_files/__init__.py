"""Adapters as other programs keep them: PEFT directories and GGUF files, read and written."""

from homebox.model.adapter_files.files import (
    FORMATS,
    digest_of,
    format_of,
    fused_of,
    read_adapter,
    write_adapter,
)
from homebox.model.adapter_files.modules import Adapter

__all__ = [
    "FORMATS",
    "Adapter",
    "digest_of",
    "format_of",
    "fused_of",
    "read_adapter",
    "write_adapter",
]
