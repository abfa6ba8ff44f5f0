"""GGUF files: metadata and tensors of one mapped file, and the float32 values of its blocks."""

from homebox.model.gguf.dequantisers import SUPPORTED, dequantise
from homebox.model.gguf.header import TensorInfo
from homebox.model.gguf.metadata import Value
from homebox.model.gguf.reader import GGUFFile, GGUFTensor
from homebox.model.gguf.types import BLOCKS, GGMLType

__all__ = [
    "BLOCKS",
    "SUPPORTED",
    "GGMLType",
    "GGUFFile",
    "GGUFTensor",
    "TensorInfo",
    "Value",
    "dequantise",
]
