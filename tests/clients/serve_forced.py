"""`python -m tests.clients.serve_forced MODEL STATE`: a real daemon whose choices are forced.

The one idea: everything is the product but the parts that `homebox.daemon.serve` is given, which
only Python can give. It says where it listens on its first line, as the real command does.
"""

import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import Any

from homebox.config import Config, ModelConfig, PathsConfig, ServerConfig
from homebox.daemon import serve
from homebox.hosting.parts import Parts, real_parts
from tests.clients.forced import ForcedSampler, Player
from tests.clients.qwen3_folder import CONTEXT

TOKEN = "sk-local"


def forced_parts(folder: Path) -> Parts:
    """Return the parts of the product with a model that says what the script wants."""
    parts = real_parts()
    player = Player(folder)

    def load(config: Config, *args: Any, **options: Any) -> Any:
        model = parts.load(config, *args, **options)
        model.sampler = partial(ForcedSampler, player)
        return model

    return dataclasses.replace(parts, load=load)


def configuration(folder: Path, state: Path) -> Config:
    """Return a configuration of the product, as a file could say it."""
    return Config(
        paths=PathsConfig(state=str(state)),
        server=ServerConfig(port=0, token=TOKEN),
        model=ModelConfig(path=str(folder), context=CONTEXT, slots=4, device="cpu"),
    )


def main() -> None:
    folder, state = (Path(argument) for argument in sys.argv[1:3])
    serve(configuration(folder, state), forced_parts(folder))


if __name__ == "__main__":
    main()
