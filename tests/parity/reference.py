"""The files in `reference/`: what the peers said, for tests that run without them.

One JSON file for each case; rows of numbers are the base64 of little-endian float32. A gradient is
kept as its norm and its products with a few vectors of +-1, which differ from those of another
gradient by about the norm of the difference.
"""

import base64
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.parity.cases import Case
from tests.parity.weights import Stored, drawn

FOLDER = Path(__file__).parent / "reference"
ROWS = (0, 17, 33, 63)  # whose logits are kept
DIRECTIONS = 3
FEW = (33, 63)  # the same of llama.cpp

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """What is known of a case; `tensors` as in the file that transformers writes."""

    case: str
    seed: int
    versions: dict[str, str]
    config: dict[str, Any]
    tensors: list[Stored]
    ids: list[int]
    logits: Float32  # (len(ROWS), vocabulary)
    prompts: list[list[int]]
    greedy: list[list[int]]
    lead: float  # the least of a greedy id over the next
    gap: float | None  # the least of a chosen expert over one that was not
    loss: float
    gradient: dict[str, list[float]]  # norm, then the products


def path_of(case: Case) -> Path:
    """Return where a case's file is."""
    return FOLDER / f"{case.name}.json"


def sketch(name: str, gradient: npt.NDArray[Any]) -> list[float]:
    """Return a gradient's norm and its products with DIRECTIONS vectors of +-1."""
    flat = gradient.astype(np.float64).reshape(-1)
    signs = [np.sign(drawn(i, f"direction {name}", flat.shape)) for i in range(DIRECTIONS)]
    return [float(np.linalg.norm(flat)), *(float(flat @ sign) for sign in signs)]


def write(case: Case, reference: Reference) -> None:
    """Write a case's file, the same text for the same contents."""
    raw = asdict(reference)
    raw["tensors"] = _folded(reference.tensors)
    raw["logits"] = base64.b64encode(reference.logits.astype("<f4").tobytes()).decode()
    raw["gradient"] = {
        name: " ".join(f"{value:.6g}" for value in numbers)
        for name, numbers in reference.gradient.items()
    }
    FOLDER.mkdir(exist_ok=True)
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in raw.items())
    path_of(case).write_text("{\n" + lines + "\n}\n")


def read(case: Case) -> Reference:
    """Read a case's file."""
    raw = json.loads(path_of(case).read_text())
    data = np.frombuffer(base64.b64decode(raw["logits"]), "<f4")
    raw["logits"] = data.reshape(len(ROWS), -1).astype(np.float32)
    raw["tensors"] = _unfolded(raw["tensors"])
    raw["gradient"] = {
        name: [float(value) for value in text.split()] for name, text in raw["gradient"].items()
    }
    return Reference(**raw)


@dataclass(frozen=True)
class LlamaReference:
    """What llama.cpp says about a GGUF file; `kind` is the type of its matrices."""

    case: str
    kind: str
    seed: int
    versions: dict[str, str]
    config: dict[str, Any]
    tensors: list[Stored]
    logits: Float32  # (len(FEW), vocabulary)
    greedy: list[int]  # after the first prompt
    lead: float  # the least of a greedy id over the next


def gguf_path(case: Case, kind: str) -> Path:
    """Return where the file of a case in a type is."""
    return FOLDER / f"gguf-{case.name}-{case.config['hidden_size']}-{kind}.json"


def write_llama(case: Case, known: LlamaReference) -> None:
    """Write the file of a case in a type."""
    raw = asdict(known)
    raw["tensors"] = _folded(known.tensors)
    raw["logits"] = base64.b64encode(known.logits.astype("<f4").tobytes()).decode()
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in raw.items())
    gguf_path(case, known.kind).write_text("{\n" + lines + "\n}\n")


def read_llama(case: Case, kind: str) -> LlamaReference:
    """Read the file of a case in a type."""
    raw = json.loads(gguf_path(case, kind).read_text())
    data = np.frombuffer(base64.b64decode(raw["logits"]), "<f4")
    raw["logits"] = data.reshape(len(FEW), -1).astype(np.float32)
    raw["tensors"] = _unfolded(raw["tensors"])
    return LlamaReference(**raw)


def bound(case: Case, kind: str) -> float:
    """Return how far logits may be from llama.cpp's: the RMS of that, relative to theirs.

    It rounds what it multiplies by: to float16 and bfloat16 for matrices of these types, to 8 bits
    for all others but float32; and it looks gelu up in a table of float16.
    """
    if kind == "F32" and not case.mxfp4:
        return 5e-3 if case.architecture == "gemma3_text" else 5e-5
    return {"F16": 5e-3, "BF16": 3e-2}.get(kind, 7e-2)


def distance(found: Float32, wanted: Float32) -> float:
    """Return the RMS of a difference, relative to what is wanted."""
    apart = np.linalg.norm(found.astype(np.float64) - wanted)
    return float(apart / np.linalg.norm(wanted))


def _folded(tensors: list[Stored]) -> dict[str, str]:
    """Return name -> "type shape numbers", with * for the numbers of layers and experts."""
    out: dict[str, Any] = {}
    for tensor in tensors:
        words = tensor.name.split(".")
        numbers = [word for word in words if word.isdigit()]
        name = ".".join("*" if word.isdigit() else word for word in words)
        text = f"{tensor.kind} {'x'.join(map(str, tensor.shape))}"
        out.setdefault(f"{name} {text}", []).append(".".join(numbers))
    return {key: " ".join(numbers) for key, numbers in out.items()}


def _unfolded(folded: dict[str, str]) -> list[Stored]:
    tensors = []
    for key, text in folded.items():
        name, kind, shape = key.split(" ")
        for numbers in text.split(" "):
            parts = iter(numbers.split("."))
            words = [next(parts) if word == "*" else word for word in name.split(".")]
            size = tuple(int(n) for n in shape.split("x"))
            tensors.append(Stored(".".join(words), size, kind))
    return tensors
