"""PEFT LoRA directories: `adapter_config.json` and `adapter_model.safetensors`, read and written.

The one idea: what there is to find follows from the base, so every tensor is a matrix of a module
that the base has, of the shape that the base and the configuration ask for, or an error.
Invariant: shapes are checked before a number is read; a pickle (`adapter_model.bin`) is never read.
Format: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import safetensors.numpy

from homebox.errors import ModelFormatError, ModelNotFoundError
from homebox.model.adapter_files.modules import (
    Adapter,
    Fused,
    Module,
    Pair,
    combined,
    joined,
    modules_of,
    separated,
)
from homebox.model.adapter_files.peft_config import (
    PeftConfig,
    parse_peft_config,
    written_config,
)
from homebox.model.config import ModelConfig
from homebox.model.files.json_file import read_json_file
from homebox.model.files.safetensors_reader import SafetensorsFile, TensorInfo
from homebox.model.files.stored import Stored, finite, widened
from homebox.model.lora import MAX_RANK, check_adapter
from homebox.model.strictmath import Float32

CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_TYPES = ("F32", "F16", "BF16")
_PREFIX = "base_model.model."
_TENSOR = re.compile(r"(?P<module>.+)\.lora_(?P<half>[AB])(?:\.default)?\.weight")
_MODULE = re.compile(
    r"(?:model\.)?(?:language_model\.)?(?:model\.)?"
    r"(?P<inside>layers\.(?:0|[1-9][0-9]{0,5})\.(?P<name>.+))"
)
_NO_LINEAR = ("embed_tokens", "lm_head")


class TensorFile(Protocol):
    """What is asked of an open file with a checked header."""

    path: Path
    tensors: dict[str, TensorInfo]

    def view(self, name: str) -> Stored:
        """Show a tensor as it lies in the file."""
        ...


def read_peft(directory: Path, config: ModelConfig, fused: Fused | None = None) -> Adapter:
    """Read an adapter for a base; raises ModelFormatError that names file and field.

    `fused` says which modules of the base's files compute several of our projections.
    """
    path, where = _tensor_file(directory), directory / CONFIG_FILE
    settings = parse_peft_config(read_json_file(where), str(where))
    with SafetensorsFile(path) as file:
        return adapter_in(file, settings, config, fused or {})


def adapter_in(
    file: TensorFile, settings: PeftConfig, config: ModelConfig, fused: Fused
) -> Adapter:
    """Return the adapter that an open file holds; raises as `read_peft`."""
    modules = modules_of(config, fused)
    pairs: dict[str, Pair] = {}
    for inside, halves in _halves(file, modules).items():
        pair = _pair(file, modules[inside], halves, settings)
        pairs |= separated(modules[inside], pair)
    return combined(config, pairs, str(file.path), settings.base)


def _tensor_file(directory: Path) -> Path:
    """Find the file with the tensors; say what is wrong where there is none to read."""
    if directory.suffix in PICKLES:
        raise _pickle(directory)
    if not directory.is_dir():
        raise ModelNotFoundError(
            f"{directory} is no directory; give the folder that holds {CONFIG_FILE} and "
            f"{TENSOR_FILE}"
        )
    if not (directory / TENSOR_FILE).exists():
        for name in sorted(path.name for path in directory.glob("adapter_model.*")):
            if Path(name).suffix in PICKLES:
                raise _pickle(directory / name)
    if not (directory / CONFIG_FILE).exists():
        raise ModelNotFoundError(
            f"{directory / CONFIG_FILE} does not exist; give the folder of an adapter, which holds "
            f"{CONFIG_FILE} and {TENSOR_FILE}"
        )
    return directory / TENSOR_FILE


def _pickle(path: Path) -> ModelFormatError:
    return ModelFormatError(
        f"{path}: format: a pickle can run any program when it is read, so it is never read; save "
        "the adapter as safetensors (save_pretrained with safe_serialization=True)"
    )


def _halves(file: TensorFile, modules: Mapping[str, Module]) -> dict[str, dict[str, str]]:
    """Return "layers.{i}.{module}" -> A or B -> the tensor's name in the file."""
    found: dict[str, dict[str, str]] = {}
    for name in file.tensors:
        inside, half = _place(name, modules, str(file.path))
        halves = found.setdefault(inside, {})
        if half in halves:
            raise ModelFormatError(
                f"{file.path}: {name}: the same matrix as {halves[half]}; keep one of them"
            )
        halves[half] = name
    for inside, halves in found.items():
        if len(halves) == 1:
            (name,) = halves.values()
            other = "B" if "A" in halves else "A"
            raise ModelFormatError(
                f"{file.path}: {name}: lora_{other} of {inside} is missing; save the adapter again"
            )
    return found


def _place(name: str, modules: Mapping[str, Module], where: str) -> tuple[str, str]:
    """Return the module of a tensor and which matrix it is."""
    shown = ascii(name)[1:-1][:120]
    if "lora_magnitude_vector" in name:
        raise ModelFormatError(
            f"{where}: {shown}: DoRA is not supported; train without it, or merge the adapter"
        )
    matched = _TENSOR.fullmatch(name.removeprefix(_PREFIX))
    if any(part in name for part in _NO_LINEAR) or "lora_embedding_" in name:
        raise ModelFormatError(
            f"{where}: {shown}: adapters of embeddings and heads are not supported; train without "
            "them, or merge the adapter"
        )
    if matched is None:
        raise ModelFormatError(
            f"{where}: {shown}: no matrix of a LoRA adapter (....lora_A.weight, ....lora_B.weight)"
        )
    module = _MODULE.fullmatch(matched["module"])
    if module is None or module["inside"] not in modules:
        expert = module is not None and re.search(r"experts|router|mlp\.gate$", module["name"])
        hint = "experts and routers are not adapted" if expert else "the base has no such module"
        raise ModelFormatError(
            f"{where}: {shown}: {hint}; adapters are for {_list(modules)}; use the base that the "
            "adapter was made for"
        )
    return module["inside"], matched["half"]


def _list(modules: Mapping[str, Module]) -> str:
    names = dict.fromkeys(module.name.rpartition(".")[2] for module in modules.values())
    layers = max(module.layer for module in modules.values()) + 1
    return f"{', '.join(names)} of {layers} layers"


def _pair(
    file: TensorFile, module: Module, halves: Mapping[str, str], settings: PeftConfig
) -> Pair:
    """Read one module's product, having checked what it must look like."""
    matched = _TENSOR.fullmatch(halves["A"].removeprefix(_PREFIX))
    whole = matched["module"] if matched else ""
    rank = settings.rank_of(whole)
    if rank > MAX_RANK * len(module.parts):
        raise ModelFormatError(
            f"{file.path}: {halves['A']}: rank {rank} is above the "
            f"{MAX_RANK * len(module.parts)} allowed; reduce the adapter's rank"
        )
    wanted = {"A": (rank, module.inputs), "B": (sum(module.rows), rank)}
    for half, name in halves.items():
        info = file.tensors[name]
        if info.shape != wanted[half]:
            raise ModelFormatError(
                f"{file.path}: {name}: shape {list(info.shape)}, must be {list(wanted[half])} for "
                f"this base and the rank {rank} of {CONFIG_FILE}; use the base that the adapter "
                "was made for"
            )
        if info.dtype not in _TYPES:
            raise ModelFormatError(
                f"{file.path}: {name}: type {info.dtype} is not supported; supported: "
                f"{', '.join(_TYPES)}; save the adapter in one of them"
            )
    return Pair(_read(file, halves["A"]), _read(file, halves["B"]), settings.scale_of(whole))


def _read(file: TensorFile, name: str) -> Float32:
    stored = file.view(name)
    if not finite(stored):
        raise ModelFormatError(
            f"{file.path}: {name}: holds NaN or infinity; train the adapter again"
        )
    return widened(stored)


def write_peft(
    directory: Path,
    config: ModelConfig,
    tensors: Mapping[str, Float32],
    alpha: float,
    base: str,
    fused: Fused | None = None,
) -> list[Path]:
    """Write an adapter into an existing directory; return the files.

    `base` is the name of the base model that stands in the configuration. Raises ModelFormatError
    if the tensors are none of an adapter for `config`, or PEFT has no such adapters.
    """
    rank = check_adapter(config, tensors)
    modules = modules_of(config, fused or {})
    if config.experts is not None:
        modules = _without_dense(modules, tensors)
    stored: dict[str, Float32] = {}
    for inside, module in modules.items():
        a, b = joined(module, tensors)
        stored[f"{_PREFIX}model.{inside}.lora_A.weight"] = np.ascontiguousarray(a, "<f4")
        stored[f"{_PREFIX}model.{inside}.lora_B.weight"] = np.ascontiguousarray(b, "<f4")
    targets = {module.name.rpartition(".")[2] for module in modules.values()}
    parts = {m.name: len(m.parts) for m in modules.values() if len(m.parts) > 1}
    settings = written_config(rank, alpha, base, targets, parts)
    (directory / CONFIG_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    data = safetensors.numpy.save(stored, metadata={"format": "pt"})
    (directory / TENSOR_FILE).write_bytes(data)
    return [directory / CONFIG_FILE, directory / TENSOR_FILE]


def _without_dense(
    modules: Mapping[str, Module], tensors: Mapping[str, Float32]
) -> dict[str, Module]:
    """Leave out the dense layers of a model with experts, which must not be adapted.

    PEFT takes the names of their modules for those of the experts, and would change these.
    """
    dense = [module for module in modules.values() if module.name.startswith("mlp.")]
    if any(tensors[f"{part}.B"].any() for module in dense for part in module.parts):
        raise ModelFormatError(
            "adapter: PEFT cannot adapt the dense layers of a model with experts; export it as gguf"
        )
    return {inside: module for inside, module in modules.items() if module not in dense}
