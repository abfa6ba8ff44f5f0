"""What an owner gets wrong with a model's path: each text says what, where and what to do.

A case makes a path; the texts that must appear stand beside it. The controls at the end show that
the same paths are taken once they are right.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox import cli
from homebox.engine.graph.formats import WEIGHTS as FORMATS
from homebox.errors import HomeboxError, ModelFormatError, ModelNotFoundError
from homebox.model.adapter_files import read_adapter
from homebox.model.architectures.config_file import load_config
from homebox.model.gguf.writer import write_gguf
from homebox.model.loading.gguf_format import kept_as
from homebox.model.loading.gguf_model import load_gguf_weights
from homebox.model.loading.open_model import model_name, model_path, open_model
from homebox.model.weights.packed_layout import Packing
from tests.unit.model_files import write_model

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 636592736\n"
PAGE = b"\n<!DOCTYPE html><html><title>Sign in</title></html>"
LISTED = "supported architectures: llama, mistral"
CUT = "the file may be cut off, get it again"

Make = Callable[[Path], object]  # changes a whole model's folder, or returns another path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("owner") / "model"
    write_model(folder)
    return folder


def configured(**changes: Any) -> Make:
    def change(folder: Path) -> None:
        raw = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**raw, **changes}))

    return change


def quantised(**settings: Any) -> Make:
    return configured(quantization_config=settings)


def file(name: str, data: bytes) -> Make:
    def make(folder: Path) -> Path:
        path = folder.parent / name
        path.write_bytes(data)
        return path

    return make


def gguf(tensors: bool = True, **metadata: str | int) -> Make:
    def make(folder: Path) -> Path:
        path = folder.parent / "some.gguf"
        entries = {key.replace("__", "."): value for key, value in metadata.items()}
        content = {"token_embd.weight": np.zeros((32, 32), np.float32)} if tensors else {}
        write_gguf(path, {"general.architecture": "llama", **entries}, content)
        return path

    return make


def without(*names: str) -> Make:
    return lambda folder: [(folder / name).unlink() for name in names]


def renamed(old: str, new: str) -> Make:
    return lambda folder: (folder / old).rename(folder / new) and None


def holding(name: str, data: bytes) -> Make:
    return lambda folder: (folder / name).write_bytes(data) and None


def only(*names: str) -> Make:
    """Make a folder with these empty files and nothing else."""

    def make(folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        for name in names:
            (folder / name).write_bytes(b"")

    return make


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def parent(folder: Path) -> Path:
    return folder.parent


def cache(folder: Path) -> Path:
    """Move a model into the layout of Hugging Face's cache; return the folder of the version."""
    root = folder.parent / "models--some--Small-1B"
    version = root / "snapshots" / "0123"
    version.mkdir(parents=True)
    (root / "blobs").mkdir()
    for path in folder.iterdir():
        path.rename(root / "blobs" / path.name)
        (version / path.name).symlink_to(f"../../blobs/{path.name}")
    folder.rmdir()
    return version


def cached(folder: Path) -> Path:
    return cache(folder).parents[1]


def dangling(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/gone")


def half_an_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-1-of-2.safetensors")
    found = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
    index = json.dumps({"weight_map": found})
    (folder / "model.safetensors.index.json").write_text(index)


def somewhere(text: str) -> Make:
    return lambda folder: text


WEIGHTS = "model.safetensors"
CASES: dict[str, tuple[Make, tuple[str, ...]]] = {
    # The path.
    "nothing there": (somewhere("/no/such/model"), ("/no/such/model does not exist; give",)),
    "a misspelt name": (somewhere("tyni"), ("tyni does not exist; give", '"tiny"')),
    "a name of the hub": (
        somewhere("Qwen/Qwen3-0.6B"),
        ("nor a model on this box", '"homebox pull Qwen/Qwen3-0.6B"'),
    ),
    "a name of the hub with a type": (
        somewhere("hf.co/some/Model-GGUF:Q8_0"),
        ('"homebox pull some/Model-GGUF:Q8_0"',),
    ),
    "an address": (somewhere("https://hf.co/a/b"), ("https://hf.co/a/b is an address",)),
    "its config.json": (
        lambda folder: folder / "config.json",
        ("config.json: is a part of a model; give its folder, ",),
    ),
    "its weights": (lambda folder: folder / WEIGHTS, ("is a part of a model; give its folder",)),
    "the folder above": (parent, ("holds folders of models; give one: ", "/model")),
    "the root of a cache": (cached, ("holds folders of models; give one: ", "/snapshots/0123")),
    "an empty folder": (only(), ("config.json does not exist; a model's folder holds", ".gguf")),
    "two GGUF files": (only("b.gguf", "a.gguf"), ("holds a.gguf, b.gguf; give one of these",)),
    "an adapter's folder": (
        only("adapter_config.json", "adapter_model.safetensors"),
        ("is an adapter, which needs its base", '"homebox import adapter PATH"'),
    ),
    # Another kind of file.
    "a pickle": (file("model.pt", b"PK\3\4"), ("model.pt: is a pickle", "safetensors or GGUF")),
    "a pickle called .bin": (file("model.bin", b"x"), ("is a pickle", "never opened")),
    "a folder of pickles": (renamed(WEIGHTS, "pytorch_model.bin"), ("pytorch_model.bin: is a p",)),
    "pickles and no configuration": (only("pytorch_model.bin"), ("pytorch_model.bin: is ",)),
    "an empty file": (file("a.gguf", b""), ("a.gguf: is empty; get it again",)),
    "a web page": (file("a.gguf", PAGE), ("a.gguf: is a web page, not a model; download",)),
    "git-lfs without lfs": (file("a.gguf", LFS), ("a.gguf: is a note of git-lfs", "git lfs pull")),
    "text": (file("a.txt", b"hello"), ("a.txt: is no folder of a model and no GGUF file",)),
    # A folder that lacks something.
    "no weights": (without(WEIGHTS), (f"{WEIGHTS} does not exist; a model's folder holds",)),
    "no tokenizer": (without("tokenizer.model"), ("neither tokenizer.json nor tokenizer.model",)),
    "parts without their index": (
        renamed(WEIGHTS, "model-1-of-1.safetensors"),
        ("model.safetensors.index.json does not exist", "model-1-of-1.safetensors; get it"),
    ),
    "a part is missing": (
        half_an_index,
        ("model-2-of-2.safetensors does not exist", "index.json names it; get"),
    ),
    "a link that leads nowhere": (dangling, ("is a link that leads nowhere; get the file again",)),
    "weights of git-lfs": (holding(WEIGHTS, LFS), (f"{WEIGHTS}: is a note of git-lfs",)),
    "a tokenizer of git-lfs": (
        holding("tokenizer.json", LFS),
        ("tokenizer.json: is a note of git-lfs",),
    ),
    "a cut download": (cut, (WEIGHTS, "outside of the", CUT)),
    "a tokenizer of another model": (
        configured(vocab_size=100),
        ("config.json: vocab_size: 100 is below the", "another model's"),
    ),
    "a configuration of another size": (
        configured(num_hidden_layers=80),
        ("tensors are too few for 80 layers",),
    ),
    # What is not supported.
    "GPT-2": (
        configured(architectures=["GPT2LMHeadModel"], model_type="gpt2"),
        ("config.json: architectures: 'GPT2LMHeadModel' is not supported", LISTED),
    ),
    "Gemma 2": (
        configured(architectures=["Gemma2ForCausalLM"], model_type="gemma2"),
        ("architectures: 'Gemma2ForCausalLM' is not supported", LISTED),
    ),
    "Qwen3-Next": (
        configured(architectures=["Qwen3NextForCausalLM"], model_type="qwen3_next"),
        ("architectures: 'Qwen3NextForCausalLM' is not supported", LISTED),
    ),
    "a classifier": (
        configured(architectures=["LlamaForSequenceClassification"]),
        ("'LlamaForSequenceClassification' is not supported", LISTED),
    ),
    "AWQ": (quantised(quant_method="awq", bits=4), ("'awq' is not supported", "or as GGUF")),
    "GPTQ": (quantised(quant_method="gptq", bits=4), ("'gptq' is not supported", "or as GGUF")),
    "bitsandbytes": (
        quantised(quant_method="bitsandbytes", load_in_4bit=True),
        ("'bitsandbytes' is not supported", "or as GGUF"),
    ),
    "MLX": (
        configured(quantization={"group_size": 64, "bits": 4}),
        ("config.json: quantization: MLX's is not supported", "or as GGUF"),
    ),
    # GGUF files.
    "another architecture": (
        gguf(general__architecture="bitnet"),
        ("general.architecture: 'bitnet' is not supported", LISTED),
    ),
    "a file of several": (
        gguf(split__count=3, split__no=0),
        ("split.count: files in parts", "llama-gguf-split --merge"),
    ),
    "a vocabulary alone": (gguf(tensors=False), ("only a vocabulary; get the file with",)),
    "an adapter": (
        gguf(general__type="adapter", adapter__type="lora"),
        ("is an adapter, which needs its base", '"homebox import adapter PATH"'),
    ),
    "the part that sees": (
        gguf(general__type="mmproj", general__architecture="clip"),
        ("is no language model; give the file with that",),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_told(
    name: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, texts = CASES[name]
    shutil.copytree(whole, tmp_path / "model")
    made = make(tmp_path / "model")
    path = made if isinstance(made, Path | str) else tmp_path / "model"
    with pytest.raises((ModelFormatError, ModelNotFoundError)) as caught:
        open_model(path)
    said = str(caught.value)
    assert [text for text in texts if text not in said] == [], said
    assert len(said) < 600
    # The command says the same in one line, and its exit code is that of a broken model.
    words = ["export", "adapter", "--to", str(tmp_path / "out"), "--model", str(path)]
    assert cli.main([*words, "--state", str(tmp_path / "state")]) == 3
    assert capsys.readouterr().err == f"homebox: {said}\n"


def test_controls_whole_models_are_taken(whole: Path, tmp_path: Path) -> None:
    wanted = open_model(whole).base_hash
    shutil.copytree(whole, tmp_path / "model")
    assert open_model(tmp_path / "model").base_hash == wanted
    version = cache(tmp_path / "model")
    assert open_model(version).base_hash == wanted
    assert model_name(version) == "Small-1B"


def test_a_gguf_file_is_found_in_its_folder_and_named_by_its_content(
    shared: Path, tmp_path: Path
) -> None:
    source = shared / "data" / "gguf" / "stories260K-Q8_0.gguf"
    wanted = open_model(source).base_hash
    folder = tmp_path / "downloads"
    folder.mkdir()
    shutil.copyfile(source, folder / "my model.gguf")
    assert open_model(folder / "my model.gguf").base_hash == wanted
    assert open_model(folder).base_hash == wanted
    assert (model_path(folder), model_name(folder)) == (folder / "my model.gguf", "my model")
    (folder / "mmproj-F16.gguf").write_bytes(b"")
    assert open_model(folder).base_hash == wanted
    other = source.with_name("stories260K-Q4_0.gguf")
    assert open_model(other).base_hash != wanted


@pytest.mark.parametrize("length", [3_000, 200_000])
def test_a_gguf_file_that_was_cut_off(shared: Path, tmp_path: Path, length: int) -> None:
    source = shared / "data" / "gguf" / "stories260K-Q8_0.gguf"
    path = tmp_path / "part.gguf"
    path.write_bytes(source.read_bytes()[:length])
    with pytest.raises(HomeboxError, match=f"part.gguf: .* beyond .*; {CUT}"):
        open_model(path)


def test_what_a_file_became_is_told(shared: Path) -> None:
    folder = shared / "data" / "gguf"
    weights = load_gguf_weights(folder / "stories260K-Q4_0.gguf")
    told = kept_as(weights, Packing(FORMATS["q4"]))
    assert re.fullmatch(r"q4: Q4_0 exactly \(\d+ %\), F16 rounded \(\d+ %\)", told), told
    assert "rounded" not in kept_as(weights, Packing(FORMATS["f32"]))
    assert "exactly" not in kept_as(weights, Packing(FORMATS["bf16"]))
    told = kept_as(load_gguf_weights(folder / "stories260K-BF16.gguf"), Packing(FORMATS["bf16"]))
    assert told == "bf16: BF16 exactly (100 %)"


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda folder: folder, "adapter_config.json does not exist; give the folder of an"),
        (lambda folder: folder / "none", "is no directory; give the folder that holds adapter_"),
        (gguf(), "general.type: missing, must be 'adapter'; give the file of an adapter"),
    ],
    ids=["a model's folder", "nothing there", "a model's file"],
)
def test_what_is_no_adapter_is_told(made: Make, text: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "model")
    path = made(tmp_path / "model")
    assert isinstance(path, Path)
    with pytest.raises((ModelFormatError, ModelNotFoundError), match=text):
        read_adapter(path, load_config(whole))
