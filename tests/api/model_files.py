"""Models in files of a few bytes, with a memory that holds so much: parts for tests of switches."""

import json
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from homebox.config import Config
from homebox.errors import ModelFormatError, ModelNotFoundError, OutOfDeviceMemoryError
from homebox.hosting.parts import Parts
from tests.api import fake_learner
from tests.api.fake_model import FakeModel, FakeSequence

MEMORY = 100


def write_model(folder: Path, name: str, size: int = 10) -> Path:
    """Write a model that takes `size` of the memory."""
    path = folder / f"{name}.model"
    digit = f"{sum(name.encode()) % 256:02x}"
    path.write_text(json.dumps({"name": name, "base": digit * 32, "size": size}))
    return path


class FileModel(FakeModel):
    """A fake model that tells who answered."""

    def __init__(self, name: str, base: str, size: int, delay: float) -> None:
        super().__init__(delay=delay)
        self.name = name
        self.base_hash = base
        self.type = "q8"
        self.kept = "weights as q8"
        room = SimpleNamespace(device=SimpleNamespace(name="cpu"))
        portion = SimpleNamespace(room=room, bytes=SimpleNamespace(total=size, weights=size))
        self.placement = SimpleNamespace(
            portions=[portion], device="cpu", table=lambda: [f"cpu: {size} of {MEMORY}"]
        )

    def start(self, *args: Any, **options: Any) -> FakeSequence:
        sequence = super().start(*args, **options)
        steps = sequence._steps

        def named() -> Any:
            yield from f"{self.name}:"
            yield from steps

        sequence._steps = named()
        return sequence


class Shelf:
    """Loads such models, and remembers what was loaded; `before_load` may hold or break a load."""

    def __init__(self, memory: int = MEMORY, delay: float = 0.0) -> None:
        self.memory = memory
        self.delay = delay
        self.loaded: list[tuple[str, weakref.ref[FileModel]]] = []
        self.broken: set[str] = set()  # names whose load fails though they are planned
        self.greedy: set[str] = set()  # names whose programs fit only if they are alone
        self.holding = threading.Event()
        self.holding.set()
        self.entered = threading.Event()
        self.told: list[Callable[[int, int], None]] = []

    def parts(self) -> Parts:
        return Parts(self.load, fake_learner.run, fake_learner.read, self.fit)

    def fit(self, config: Config, returned: Mapping[str, int]) -> str:
        found = self._open(config)
        if found["size"] > self.memory:
            raise OutOfDeviceMemoryError(f"{found['size']} do not fit into {self.memory}")
        return str(found["base"])

    def load(
        self,
        config: Config,
        taken: Mapping[str, int] | None = None,
        tell: Callable[[int, int], None] = lambda done, total: None,
    ) -> FileModel:
        found = self._open(config)
        if found["size"] + sum((taken or {}).values()) > self.memory:
            raise OutOfDeviceMemoryError(f"{found['size']} do not fit beside the others")
        self.entered.set()
        while not self.holding.wait(0.005):
            tell(1 << 20, 2 << 20)
        if found["name"] in self.broken:
            raise RuntimeError("the driver fell over")
        model = FileModel(found["name"], found["base"], found["size"], self.delay)
        if model.name in self.greedy:
            model.prepare = self._needs_all  # type: ignore[method-assign]
        self.loaded.append((model.name, weakref.ref(model)))
        return model

    def names(self) -> list[str]:
        return [name for name, _ in self.loaded]

    def alive(self) -> list[str]:
        return [name for name, model in self.loaded if model() is not None]

    def _needs_all(self) -> bool:
        if len(self.alive()) > 1:
            raise OutOfDeviceMemoryError("its programs do not fit beside the others")
        return False

    def _open(self, config: Config) -> dict[str, Any]:
        path = Path(config.model.path)
        if config.model.path == "tiny":
            return {"name": "tiny", "base": "11" * 32, "size": 5}
        if not path.is_file():
            raise ModelNotFoundError(f"{path}: there is no such model")
        try:
            return dict(json.loads(path.read_text()))
        except ValueError as error:
            raise ModelFormatError(f"{path}: is broken") from error
