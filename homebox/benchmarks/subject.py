"""What is measured: a model without its tokenizer, served and trained with ids drawn by lot.

The rest of the benchmark sees only the few methods here, so a change of the model's interface is a
change of this file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from homebox.engine.graph.device import HOST, Device
from homebox.engine.graph.tensor import Tensor
from homebox.model.config import ModelConfig
from homebox.model.decoder.stages import whole
from homebox.model.decoder.transformer import Transformer
from homebox.model.loading.gguf_format import served_packing
from homebox.model.loading.loaded_weights import LoadedWeights
from homebox.model.loading.open_model import open_weights
from homebox.model.model import choose_activations
from homebox.model.placement.devices import room_of
from homebox.model.placement.keys_and_values import cache_kind
from homebox.model.training.trainer import Batch, LoraTrainer
from homebox.model.weights.packed_layout import Packing
from homebox.model.weights.packed_weights import PackedWeights, pack_model
from homebox.model.weights.placed_weights import moved

RANK = 16
Ids = npt.NDArray[np.int32]


def random_ids(config: ModelConfig, count: int, seed: int = 0) -> Ids:
    """Return ids drawn by lot, the same for a seed."""
    return np.random.default_rng(seed).integers(0, config.vocab_size, count).astype(np.int32)


def open_packed(directory: Path, form: str) -> PackedWeights:
    """Return the weights of a model directory in a format, by name or "auto"."""
    weights = open_weights(directory)
    return pack_model(weights, packing_as_served(weights, form))


def packing_as_served(weights: LoadedWeights, asked: str) -> Packing:
    """Return the formats in which a model would be served, by name or "auto"."""
    return served_packing(weights.config, weights, asked, room_of(HOST, 0).free)


class Subject:
    """A model that serves from one device: slot i holds sequence i."""

    def __init__(
        self,
        directory: Path,
        form: str,
        context: int,
        slots: int,
        device: Device = HOST,
        activations: str = "auto",
    ) -> None:
        packed = open_packed(directory, form)
        self.config, self.form = packed.config, packed.form
        self.activations = choose_activations(packed.form.name, activations)
        self.transformer = Transformer(
            packed.config,
            packed,
            context,
            slots,
            activations=self.activations,
            cache=cache_kind(self.activations),
            parts=whole(packed.config, device),
        )

    @property
    def kind(self) -> str:
        """The arithmetic of its products: "f32", "bf16" or "int8"."""
        return self.activations

    @property
    def cache_bytes(self) -> float:
        """The bytes of keys and values of one position in all layers."""
        return self.transformer.cache_bytes / self.transformer.positions

    def prefill(self, ids: Ids, slot: int = 0) -> int:
        """Process a prompt from the beginning of a slot and return the likeliest next id."""
        chunk = self.transformer.prefill_chunk
        logits = np.zeros(1, np.float32)
        for at in range(0, len(ids), chunk):
            logits = self.transformer.forward(slot, at, ids[at : at + chunk], 0)
        return int(logits.argmax())

    def decode(self, ids: Ids, positions: Sequence[int]) -> Ids:
        """Process one id of each of the first slots; return the likeliest next ids."""
        slots = range(len(ids))
        logits = self.transformer.decode(slots, ids, positions, [0] * len(ids))
        found: Ids = logits.argmax(-1).astype(np.int32)
        return found


@dataclass
class _Base:
    """What a trainer asks of a model."""

    config: ModelConfig
    tensors: dict[str, Tensor]

    def base_tensors(self) -> dict[str, Tensor]:
        return self.tensors


class Trainee:
    """A model whose adapter is trained on one batch again and again, on one device.

    `form` f32 trains with strict bits, any other one with rounded activations. What is bf16 in the
    file stays so in memory even then: it is multiplied as float32, and nothing is lost.
    """

    def __init__(
        self, directory: Path, form: str, rows: int, length: int, device: Device = HOST
    ) -> None:
        weights = open_weights(directory)
        narrow = weights.stored("embed", checked=False).dtype == np.uint16
        held = "bf16" if form == "f32" and narrow else form
        packed = pack_model(weights, packing_as_served(weights, held))
        self.config, self.form = packed.config, packed.form
        self.kind = "f32" if "f32" in (form, packed.form.name) else "bf16"
        tensors = {name: packed.tensor(name) for name in packed.segments}
        self._trainer = LoraTrainer(
            _Base(packed.config, tensors if device is HOST else moved(tensors, device)),
            RANK,
            2.0 * RANK,
            rows,
            length,
            seed=0,
            numerics=self.kind,
            device=device,
        )
        self._batch = random_batch(packed.config, rows, length)

    def step(self, rate: float = 1e-4) -> float:
        """Train once with a learning rate and return the loss."""
        return self._trainer.step(self._batch, rate).loss


def random_batch(config: ModelConfig, rows: int, length: int) -> Batch:
    """Return rows of one document each, in which every id but the first is to be predicted."""
    ids = random_ids(config, rows * length, 1).reshape(rows, length)
    weight = np.full((rows, length), 1 / (rows * (length - 1)), np.float32)
    weight[:, -1] = 0
    return Batch(
        ids=ids,
        segment=np.ones((rows, length), np.int32),
        position=np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length)).copy(),
        target=np.roll(ids, -1, 1),
        weight=weight,
    )
