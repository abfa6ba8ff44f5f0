"""GGUF files: what the format's package wrote and reads is what we read."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from homebox.errors import ModelFormatError, ModelNotFoundError
from homebox.model.files import mapped_file
from homebox.model.gguf import GGMLType, GGUFFile
from homebox.model.gguf.header import parse
from tests.fuzz.gguf_cases import (
    ARRAY,
    F16,
    F32,
    Q8_0,
    SIZES,
    STRING,
    UINT32,
    Draft,
    Entry,
    add,
    array,
    number,
    text,
)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def small() -> Draft:
    draft = Draft([Entry(b"general.architecture", STRING, text(b"llama"))])
    add(draft, b"a", [32, 5], Q8_0)
    add(draft, b"b", [3], F32)
    add(draft, b"c", [4, 3, 2], F16)
    return draft


def test_reads_what_the_package_wrote(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    metadata: dict[str, Any] = {
        "u8": 200,
        "i8": -100,
        "u16": 60000,
        "i16": -30000,
        "u32": 4_000_000_000,
        "i32": -2_000_000_000,
        "u64": 2**63 + 1,
        "i64": -(2**62),
        "f32": 0.25,
        "f64": 0.1,
        "yes": True,
        "no": False,
        "text": "öl 😀\n",
    }
    kinds = {"u8": "uint8", "i8": "int8", "u16": "uint16", "i16": "int16", "u32": "uint32"}
    kinds |= {"i32": "int32", "u64": "uint64", "i64": "int64", "f32": "float32", "f64": "float64"}
    kinds |= {"yes": "bool", "no": "bool", "text": "string"}
    for key, value in metadata.items():
        getattr(writer, f"add_{kinds[key]}")(key, value)
    writer.add_array("words", ["a", "", "ß"])
    writer.add_array("numbers", [1, -2, 3])
    writer.add_array("floats", [0.5, 1.5])
    writer.add_array("flags", [True, False])
    dice = np.random.default_rng(1)
    arrays = {
        "first": dice.standard_normal((3, 5)).astype(np.float32),
        "second": dice.standard_normal((2, 3, 4)).astype(np.float16),
        "third": dice.standard_normal(7),
    }
    for name, values in arrays.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GGUFFile(path) as file:
        found = dict(file.metadata)
        assert found.pop("words") == ("a", "", "ß")
        assert found.pop("numbers").tolist() == [1, -2, 3]  # type: ignore[union-attr]
        assert found.pop("floats").tolist() == [0.5, 1.5]  # type: ignore[union-attr]
        assert found.pop("flags").tolist() == [True, False]  # type: ignore[union-attr]
        assert found.pop("general.architecture") == "llama"
        assert found.pop("general.alignment") == 64
        assert found == metadata
        assert {key: type(value) for key, value in found.items()} == {
            key: type(value) for key, value in metadata.items()
        }
        assert list(file.tensors) == list(arrays)
        for name, values in arrays.items():
            tensor = file.tensor(name)
            assert tensor.shape == values.shape
            assert tensor.raw.tobytes() == values.tobytes()
            assert tensor.info.begin % 64 == 0
            np.testing.assert_array_equal(tensor.dequantize(), values.astype(np.float32))


def test_metadata_of_real_files_is_what_the_package_reads(shared: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    paths = [*(shared / "data" / "gguf").glob("*-Q*.gguf")]
    paths += (shared / "data" / "tokenizers").glob("*-spm.gguf")
    assert len(paths) > 5
    for path in paths:
        theirs = gguf.GGUFReader(path).fields
        with GGUFFile(path) as file:
            assert [*file.metadata] == [key for key in theirs if not key.startswith("GGUF.")]
            for key, value in file.metadata.items():
                plain = value.tolist() if isinstance(value, np.ndarray) else value
                wanted = theirs[key].contents()
                assert (list(plain) if isinstance(plain, tuple) else plain) == wanted, key


def test_a_tensor_is_shown_where_it_lies_and_made_float_in_rows(tmp_path: Path) -> None:
    draft = small()
    data = draft.bytes()
    path = write(tmp_path / "x.gguf", data)
    with GGUFFile(str(path)) as file:
        tensor = file.tensor("a")
        assert (tensor.name, tensor.shape, tensor.type) == ("a", (5, 32), GGMLType.Q8_0)
        assert tensor.raw.dtype == np.uint8
        assert tensor.raw.tobytes() == data[tensor.info.begin : tensor.info.end]
        assert not tensor.raw.flags.writeable and not tensor.raw.flags.owndata
        assert np.shares_memory(tensor.raw, tensor.raw)
        whole = tensor.dequantize()
        assert whole.shape == (5, 32)
        pieces = [tensor.rows(0, 2), tensor.rows(2, 0), tensor.rows(2, 3)]
        assert np.concatenate(pieces).tobytes() == whole.tobytes()
        assert file.tensor("c").row_count == 6
        assert file.tensor("c").rows(1, 2).shape == (2, 4)
        assert file.tensor("b").row_count == 1
        for start, count in [(-1, 1), (0, 6), (5, 1), (3, -1)]:
            with pytest.raises(IndexError, match="a has 5 rows"):
                tensor.rows(start, count)
        file.prefetch("a")
        file.release("a")
        assert tensor.dequantize().tobytes() == whole.tobytes()
        with pytest.raises(ModelFormatError, match=r"x.gguf: has no tensor 'd'"):
            file.tensor("d")


def test_the_digest_is_that_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_file, "_HASHED", 4096)
    data = small().bytes() + os.urandom(3 * 4096)
    with GGUFFile(write(tmp_path / "x", data)) as file:
        assert file.digest() == hashlib.sha256(data).hexdigest()
        assert file.status.st_size == len(data)


def test_arrays_outlive_the_file_and_nothing_is_read_after_closing(tmp_path: Path) -> None:
    file = GGUFFile(write(tmp_path / "x", small().bytes()))
    tensor = file.tensor("b")
    kept, text_value = tensor.raw, file.metadata["general.architecture"]
    wanted = kept.tobytes()
    file.close()
    assert kept.tobytes() == wanted
    assert text_value == "llama"
    with pytest.raises(ModelFormatError, match="was closed before b was read"):
        tensor.dequantize()
    with pytest.raises(ModelFormatError, match="was closed"):
        file.digest()


def test_a_file_that_shrinks_is_not_touched(tmp_path: Path) -> None:
    path = write(tmp_path / "x", small().bytes())
    with GGUFFile(path) as file:
        os.truncate(path, 100)
        with pytest.raises(ModelFormatError, match="was changed while it was open"):
            file.tensor("a").dequantize()


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="absent does not exist"):
        GGUFFile(tmp_path / "absent")
    with pytest.raises(ModelFormatError, match="no regular file"):
        GGUFFile(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFormatError, match="no regular file"):
        GGUFFile(tmp_path / "pipe")
    with pytest.raises(ModelFormatError, match="empty: magic: 4 bytes at 0 are beyond"):
        GGUFFile(write(tmp_path / "empty", b""))


def test_a_type_that_is_not_supported_may_lie_in_the_file(tmp_path: Path) -> None:
    draft = small()
    draft.tensors[0].kind, draft.tensors[0].sizes = int(GGMLType.IQ2_XXS), [256]
    with GGUFFile(write(tmp_path / "x", draft.bytes())) as file:
        assert file.tensors["a"].raw.size == 66
        assert file.tensor("b").dequantize().shape == (3,)
        for call in (file.tensor, file.prefetch, lambda name: file.tensors[name].dequantize()):
            with pytest.raises(ModelFormatError, match=r"x: a: type IQ2_XXS is not") as caught:
                call("a")
            assert "supported: F32, F16, BF16" in str(caught.value)
            assert "Q6_K" in str(caught.value)


def test_both_versions_and_every_alignment(tmp_path: Path) -> None:
    for version in (2, 3):
        for alignment in (8, 32, 4096):
            draft = Draft(version=version, alignment=alignment)
            draft.entries = [Entry(b"general.alignment", UINT32, number(UINT32, alignment))]
            add(draft, b"a", [5], F32)
            add(draft, b"b", [5], F32)
            header = parse(draft.bytes(), "x")
            assert (header.version, header.alignment) == (version, alignment)
            begins = [info.begin for info in header.tensors.values()]
            assert begins == [header.data_start, header.data_start + max(alignment, 24)]
            assert header.data_start % alignment == 0


def test_a_vocabulary_alone_is_a_file(tmp_path: Path) -> None:
    words = [text(b"w%d" % i) for i in range(1000)]
    draft = Draft([Entry(b"tokens", ARRAY, array(STRING, words))])
    with GGUFFile(write(tmp_path / "x", draft.bytes().rstrip(b"\0"))) as file:
        assert file.metadata["tokens"] == tuple(f"w{i}" for i in range(1000))
        assert not file.tensors


def test_the_helper_of_the_tests_knows_the_blocks() -> None:
    from homebox.model.gguf import BLOCKS

    assert all(BLOCKS[GGMLType(kind)] == sizes for kind, sizes in SIZES.items())
