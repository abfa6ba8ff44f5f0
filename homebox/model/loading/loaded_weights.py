"""The weights of a model in their files, in homebox's names; read one at a time.

The one idea: the numbers stay in their mapped files until one weight is asked for, so a large model
never exists as float32. Invariant: a weight that was read is complete and, where checked, finite.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from homebox.engine.graph.formats import Bytes, Format
from homebox.errors import ModelFormatError
from homebox.model.architectures.checkpoint import Origin
from homebox.model.config import ModelConfig
from homebox.model.files.stored import Float32, Stored, finite, widened
from homebox.model.files.tensor_store import TensorStore

_COMPARED = 1 << 20  # numbers that are compared at once


class LoadedWeights(Mapping[str, Float32]):
    """The weights of a model: the keys and shapes of config.weight_shapes().

    Access by name gives a float32 copy of one tensor, checked to be finite; `stored` shows it as it
    lies in the file. `base_hash` names the exact content of the model. Raises ModelFormatError
    that names file and tensor.
    """

    def __init__(
        self,
        config: ModelConfig,
        origins: Mapping[str, Origin],
        store: TensorStore,
        tied_copy: str | None,
        base_hash: str,
    ) -> None:
        self.config = config
        self.base_hash = base_hash
        self._origins = origins
        self._store = store
        self._tied_copy = tied_copy  # the stored name of a tied head
        self._shapes = config.weight_shapes()

    def __getitem__(self, name: str) -> Float32:
        return widened(self.stored(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def stored(self, name: str, checked: bool = True) -> Stored:
        """Return a weight as it is stored, read-only: float32, float16 or bf16 as uint16.

        `checked` = False leaves to the caller the check for NaN and infinity; see `refuse`.
        """
        origin = self._origins[name]
        read = self._store
        arrays = [read.codes(s.name) if s.raw else read.numbers(s.name) for s in origin.sources]
        array: Stored = arrays[0] if origin.make is None else origin.make(arrays)
        if origin.rows is not None:
            array = array[origin.rows]
        array = array.reshape(self._shapes[name])
        if checked and not finite(array):
            raise self.refuse(name, "holds NaN or infinity")
        return array

    def pieces(self, name: str) -> Iterator[Stored]:
        """Yield a matrix in pieces of whole panels, as `stored` would return it, not checked."""
        yield self.stored(name, checked=False)

    def blocks(self, name: str, form: Format) -> Bytes | None:
        """Return a matrix' quantised blocks if they are the numbers of a format, else None."""
        return None

    def refuse(self, name: str, reason: str) -> ModelFormatError:
        """Return the error that says what is wrong with a tensor, and where."""
        place = self._store.place(self._origins[name].sources[0].name)
        return ModelFormatError(f"{place}: {reason}")

    def prefetch(self, name: str) -> None:
        """Say that a tensor will be read soon."""
        for source in self._origins[name].sources:
            self._store.prefetch(source.name)

    def release(self, name: str) -> None:
        """Say that a tensor will not be read again soon, which frees its memory."""
        for source in self._origins[name].sources:
            self._store.release(source.name)

    def check(self) -> None:
        """Read everything, a tensor at a time, and raise for the first one that is not good."""
        for name in self:
            self.stored(name)
            self.release(name)
        self.check_tied_head()

    def check_tied_head(self) -> None:
        """Accept a stored copy of a tied head only if it is a copy."""
        if self._tied_copy is None:
            return
        name = self._tied_copy
        self._store.prefetch(name)
        copy, embed = self._store.numbers(name), self.stored("embed", checked=False)
        same = copy.dtype == embed.dtype and copy.shape == embed.shape
        step = max(1, _COMPARED // max(1, embed.shape[1]))
        for i in range(0, len(embed), step):
            parts = copy[i : i + step], embed[i : i + step]
            if not np.array_equal(*(parts if same else map(widened, parts))):
                raise ModelFormatError(
                    f"{self._store.place(name)}: differs from the embedding although config.json "
                    "says tie_word_embeddings"
                )
        self._store.release(name)
        self.release("embed")
