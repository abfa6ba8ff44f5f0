"""Adapters as other programs keep them: PEFT directories and GGUF files, read and written."""
