"""The model room: file formats, transformer, LoRA, tokenizer, chat format, sampling, generation."""

from homebox.model.model import Model, load
from homebox.model.sampling import SamplingParams
from homebox.model.sequence import Piece, Sequence

__all__ = ["Model", "Piece", "SamplingParams", "Sequence", "load"]
