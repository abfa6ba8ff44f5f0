"""Keeps adapters in the store: a job spec, one object a tensor, and the manifest that names them.

A tensor's object is a safetensors file with that one tensor, so that anybody can read it. Nothing
here has a clock or a row number in it: the same job gives the same hashes on every machine.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from homebox.errors import DamagedObjectError, LearningError, UnknownWeightsError
from homebox.memory.manifest import Manifest
from homebox.memory.store import Store, canonical_json

MAX_SPEC_BYTES = 10_000
_NAME = "tensor"

Tensors = dict[str, npt.NDArray[np.float32]]


def save_spec(store: Store, spec: Mapping[str, Any]) -> str:
    """Keep a job spec and return its name; raises LearningError if it is too long."""
    data = canonical_json(spec)
    if len(data) > MAX_SPEC_BYTES:
        raise LearningError(
            f"the job spec has {len(data)} bytes, more than the {MAX_SPEC_BYTES} allowed"
        )
    return store.put(data)


def save_adapter(
    store: Store, base: str, job: str, tensors: Mapping[str, npt.NDArray[np.float32]]
) -> str:
    """Keep all tensors and the manifest durably; return the weights hash."""
    return Manifest(base=base, adapter=save_tensors(store, tensors), job=job).save(store)


def save_tensors(store: Store, tensors: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, str]:
    """Keep all tensors durably and read them back; return their objects by name.

    Raises the store's errors.
    """
    names = {name: store.put(as_object(tensor)) for name, tensor in sorted(tensors.items())}
    for name in names.values():
        store.get(name)
    return names


def as_object(tensor: npt.NDArray[np.float32]) -> bytes:
    """Write a tensor as the object that the store keeps."""
    return safetensors.numpy.save({_NAME: np.ascontiguousarray(tensor, "<f4")})


def of_object(data: bytes) -> npt.NDArray[np.float32]:
    """Read such an object; raises DamagedObjectError."""
    try:
        tensor = safetensors.numpy.load(data)[_NAME]
    except (SafetensorError, KeyError, ValueError) as error:
        raise DamagedObjectError(f"an object holds no tensor: {error}") from error
    if tensor.dtype != np.float32:
        raise DamagedObjectError(f"an object holds {tensor.dtype}, not float32")
    return tensor


def load_adapter(store: Store, weights: str) -> tuple[Tensors, float]:
    """Return the tensors of a checkpoint, float32, and its alpha.

    Raises the store's errors, and DamagedObjectError for an object that holds no tensor.
    """
    manifest = Manifest.load(store, weights)
    tensors = {name: _tensor(store, object_) for name, object_ in manifest.adapter.items()}
    return tensors, float(load_spec(store, weights)["recipe"]["alpha"])


def load_spec(store: Store, weights: str) -> dict[str, Any]:
    """Return the job spec of a checkpoint; raises the store's errors."""
    try:
        return spec_in(store, Manifest.load(store, weights).job)
    except LearningError as error:
        raise DamagedObjectError(str(error)) from error


def spec_behind(store: Store, name: str) -> str:
    """Return the name of the spec that an object was made by if it is a manifest, or else is.

    Raises the store's errors.
    """
    try:
        return Manifest.load(store, name).job
    except UnknownWeightsError:
        return name


def spec_in(store: Store, name: str) -> dict[str, Any]:
    """Return the job spec that an object is; raises the store's errors, or LearningError."""
    data = store.get(name)
    try:
        spec = json.loads(data)
    except ValueError:
        spec = None
    if not isinstance(spec, dict) or "recipe" not in spec:
        raise LearningError(f"object {name[:12]} is no job spec")
    return spec


def _tensor(store: Store, name: str) -> npt.NDArray[np.float32]:
    data = store.get(name)
    try:
        return of_object(data)
    except DamagedObjectError as error:
        raise DamagedObjectError(f"object {name[:12]}: {error}") from error
