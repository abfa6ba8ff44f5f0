"""The model room: file formats, transformer, LoRA, tokenizer, chat format, sampling, generation."""

from homebox.model.generation.contract import Piece
from homebox.model.generation.request import GenerationRequest
from homebox.model.generation.sampling import SamplingParams
from homebox.model.generation.sequence import Sequence
from homebox.model.model import Model, load

__all__ = ["GenerationRequest", "Model", "Piece", "SamplingParams", "Sequence", "load"]
