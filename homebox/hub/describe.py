"""Reads a model once before it is kept: whether it runs here at all, and what it is.

Invariant: what cannot be opened is never listed; early refusals look at files of kilobytes only.
"""

from collections import Counter
from pathlib import Path

from homebox.errors import ModelFormatError
from homebox.hub.catalogue import FOLDER, GGUF, About
from homebox.model.architectures.config_file import load_config
from homebox.model.files.weight_files import open_files
from homebox.model.gguf import GGUFFile
from homebox.model.loading.gguf_model import described
from homebox.model.loading.loader import check_vocabulary, load_tokenizer
from homebox.model.loading.open_model import open_model
from homebox.model.tokenizer.gguf_vocabulary import tokenizer_of

HEADER = 32 << 20  # bytes of a GGUF file in which its header ends, vocabulary included


def about(path: Path, source: str, revision: str) -> About:
    """Open a folder or a GGUF file and describe it.

    Raises ModelNotFoundError and ModelFormatError for what does not run.
    """
    loaded = open_model(path)
    config = loaded.config
    return About(
        source=source,
        revision=revision,
        kind=FOLDER if path.is_dir() else GGUF,
        type=_type_of_folder(path) if path.is_dir() else _type_of_gguf(path),
        architecture=config.architecture,
        parameters=config.parameters,
        context=config.max_positions,
        base=loaded.base_hash,
    )


def refuse_config(folder: Path) -> None:
    """Raise ModelFormatError if the config.json of a folder names what does not run here."""
    load_config(folder)


def refuse_tokenizer(folder: Path) -> None:
    """Raise ModelFormatError or ModelNotFoundError if a folder's tokenizer does not run here."""
    load_tokenizer(folder, load_config(folder))


def refuse_header(beginning: Path, size: int) -> None:
    """Raise ModelFormatError if the beginning of a GGUF file of `size` bytes names what cannot run.

    The rest of the file is left as a hole while it is looked at. A header that is longer than what
    is here, or broken, is left to the reading of the whole file.
    """
    here = beginning.stat().st_size
    try:
        with beginning.open("r+b") as file:
            if file.read(4) != b"GGUF":
                raise ModelFormatError(f"{beginning.name}: is no GGUF file, whatever its name says")
            file.truncate(size)
        try:
            whole = GGUFFile(beginning)
        except ModelFormatError:
            if here == size:
                raise
            return
        with whole:
            config, _ = described(whole)
            check_vocabulary(config, tokenizer_of(whole.metadata, str(beginning)), beginning)
    finally:
        with beginning.open("r+b") as file:
            file.truncate(here)


def _type_of_gguf(path: Path) -> str:
    """Return the type that most bytes of a file have."""
    sizes: Counter[str] = Counter()
    with GGUFFile(path) as file:
        for tensor in file.tensors.values():
            sizes[tensor.type.name] += tensor.info.end - tensor.info.begin
    return sizes.most_common(1)[0][0]


def _type_of_folder(path: Path) -> str:
    sizes: Counter[str] = Counter()
    for file in open_files(path).values():
        with file:
            for info in file.tensors.values():
                sizes[info.dtype] += info.end - info.begin
    return sizes.most_common(1)[0][0].lower()
