"""Models pulled from a hub that breaks connections, lies, redirects and refuses."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from safetensors.numpy import load, save

from homebox.errors import HomeboxError, ModelFormatError, ModelNotFoundError, PullError, UsageError
from homebox.hub import choice, download, guard, pull, remote
from homebox.hub.catalogue import Catalogue
from homebox.hub.pull import Wanted
from homebox.hub.remote import Hub
from homebox.model.gguf.writer import write_gguf
from homebox.model.loading.open_model import model_path, open_model
from tests.hub.conftest import READ, REPO, pulled, refused
from tests.hub.local_hub import COMMIT, LocalHub

WEIGHTS = "model.safetensors"


def test_a_model_is_pulled_as_it_is_and_only_what_is_read(
    hub: LocalHub, catalogue: Catalogue
) -> None:
    found = pulled(hub, catalogue)
    assert found.new
    assert found.downloaded == found.entry.size == sum(len(hub.repos[REPO][n]) for n in READ)
    assert sorted(found.entry.files) == sorted(READ)
    for name in READ:
        assert (found.entry.path / name).read_bytes() == hub.repos[REPO][name]
    asked = {path.rpartition("/")[2] for method, path, _ in hub.requests if "/resolve/" in path}
    assert asked == set(READ), "nothing else was asked for"
    assert found.entry.base == open_model("tiny").base_hash
    assert (found.entry.revision, found.entry.kind) == (COMMIT, "folder")
    assert catalogue.find("small") == found.entry
    assert not list((catalogue.root / "partial").glob("*"))
    assert found.entry.path.name == "small"


def test_a_model_in_several_files(hub: LocalHub, catalogue: Catalogue) -> None:
    whole = load(hub.repos[REPO].pop(WEIGHTS))
    names = sorted(whole)
    parts = {"a-1.safetensors": names[::2], "a-2.safetensors": names[1::2]}
    for file, inside in parts.items():
        hub.repos[REPO][file] = save({name: whole[name] for name in inside})
    index = {name: file for file, inside in parts.items() for name in inside}
    hub.repos[REPO]["model.safetensors.index.json"] = json.dumps({"weight_map": index}).encode()
    hub.repos[REPO]["another.safetensors"] = b"not named by the index"
    hub.repos[REPO]["chat_template.jinja"] = b"{{ messages }}"
    hub.break_after["a-2.safetensors"] = [1_000_000]
    found = pulled(hub, catalogue)
    read = {"config.json", "tokenizer.model", "chat_template.jinja", *parts}
    assert set(found.entry.files) == {*read, "model.safetensors.index.json"}
    assert catalogue.check(REPO) == []
    opened, tiny = open_model(found.entry.path), open_model("tiny")
    assert all((opened.weights[name] == tiny.weights[name]).all() for name in tiny.weights)


def test_a_second_pull_downloads_nothing(hub: LocalHub, catalogue: Catalogue) -> None:
    pulled(hub, catalogue)
    assert not pulled(hub, catalogue).new
    assert hub.sent(WEIGHTS) == 1


def test_a_second_pull_mends_what_was_damaged(hub: LocalHub, catalogue: Catalogue) -> None:
    path = pulled(hub, catalogue).entry.path
    (path / "config.json").unlink()
    assert catalogue.check(REPO) == ["config.json"]
    pulled(hub, catalogue)
    assert hub.sent(WEIGHTS) == 1
    assert catalogue.check(REPO) == []
    with (path / WEIGHTS).open("r+b") as file:
        file.write(b"1234")
    assert catalogue.check(REPO) == [WEIGHTS]
    pulled(hub, catalogue)
    assert hub.sent(WEIGHTS) == 2
    assert catalogue.check(REPO) == []


def test_another_commit_downloads_only_what_changed(hub: LocalHub, catalogue: Catalogue) -> None:
    pulled(hub, catalogue)
    hub.commit = "f" * 40
    hub.repos[REPO] = {**hub.repos[REPO], "generation_config.json": b'{"temperature": 0.5}'}
    found = pulled(hub, catalogue)
    assert found.new
    assert hub.sent(WEIGHTS) == 1
    assert catalogue.names() == [REPO]
    assert len(list((catalogue.root / "folders").iterdir())) == 1


@pytest.mark.parametrize("breaks", [[70_000], [0, 0, 1_000_000, 0, 200_000], [1] * 12])
def test_a_broken_connection_is_continued(
    breaks: list[int], hub: LocalHub, catalogue: Catalogue
) -> None:
    hub.break_after[WEIGHTS] = list(breaks)
    shown: list[dict[str, Any]] = []
    found = pulled(hub, catalogue, show=shown.append)
    assert catalogue.check(found.entry.name) == []
    begins = [int(h.get("range", "bytes=0-")[6:].partition("-")[0]) for h in hub.of(WEIGHTS)]
    assert len(begins) == len(breaks) + 1
    assert begins == [sum(breaks[:i]) for i in range(len(begins))], "no byte came twice"
    assert found.downloaded == found.entry.size
    done = [report["done"] for report in shown if report["stage"] == "pull"]
    assert done == sorted(done)
    assert done[-1] == found.entry.size


def test_a_pull_that_was_given_up_goes_on_in_the_next_run(
    hub: LocalHub, catalogue: Catalogue
) -> None:
    hub.break_after[WEIGHTS] = [3_000_000] + [0] * download.TRIES
    refused(hub, catalogue, PullError, "gave up after 5 tries.*same command goes on")
    found = pulled(hub, catalogue)
    assert hub.of(WEIGHTS)[-1]["range"].startswith("bytes=3000000-")
    assert catalogue.check(found.entry.name) == []


def test_a_beginning_that_lost_bytes_in_a_power_cut_is_dropped(
    hub: LocalHub, catalogue: Catalogue
) -> None:
    hub.break_after[WEIGHTS] = [3_000_000] + [0] * download.TRIES
    refused(hub, catalogue, PullError, "gave up")
    (part,) = catalogue.root.glob(f"partial/*/{WEIGHTS}.part")
    with part.open("r+b") as file:
        file.seek(2_999_000)
        file.write(bytes(1000))
    found = pulled(hub, catalogue)
    assert catalogue.check(found.entry.name) == []
    assert "range" not in hub.of(WEIGHTS)[-1]


def test_a_server_that_falls_silent_is_asked_again(
    hub: LocalHub, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_TIMEOUT", httpx2.Timeout(5.0, read=0.3))
    hub.stall[WEIGHTS] = [2.0]
    assert catalogue.check(pulled(hub, catalogue).entry.name) == []
    assert hub.of(WEIGHTS)[1]["range"].startswith("bytes=65536-")


def test_a_server_without_ranges_sends_all_again(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.whole_only = True
    hub.break_after[WEIGHTS] = [100_000]
    assert catalogue.check(pulled(hub, catalogue).entry.name) == []


def test_mirrors_that_list_no_hashes_tell_them_for_each_file(
    hub: LocalHub, catalogue: Catalogue
) -> None:
    hub.without_hashes = True
    assert catalogue.check(pulled(hub, catalogue).entry.name) == []
    hub.etags = False
    hub.commit = "e" * 40
    with pytest.raises(PullError, match=r"says no hash for config.json"):
        pulled(hub, catalogue)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", WEIGHTS])
def test_wrong_bytes_are_refused(name: str, hub: LocalHub, catalogue: Catalogue) -> None:
    hub.wrong.add(name)
    refused(hub, catalogue, PullError, f"{name} of {REPO} arrived with another hash")
    assert not list(catalogue.root.glob(f"partial/*/{name}*")), "it was thrown away"
    hub.wrong.clear()
    assert pulled(hub, catalogue).new


def test_control_without_the_comparison_wrong_bytes_are_listed(
    hub: LocalHub, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.wrong.add(WEIGHTS)

    class Believing(str):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = str.__hash__

    real = Hub.file

    def believing(self: Hub, repository: remote.Repository, name: str) -> remote.RemoteFile:
        file = real(self, repository, name)
        return remote.RemoteFile(file.name, file.size, Believing(file.digest))

    monkeypatch.setattr(Hub, "file", believing)
    assert pulled(hub, catalogue).new


def test_more_bytes_than_listed_are_refused(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.longer.add(WEIGHTS)
    hub.whole_only = True
    refused(hub, catalogue, PullError, "is longer than the")


@pytest.mark.parametrize(
    ("status", "code", "token", "error", "match"),
    [
        ([404], "RepoNotFound", None, ModelNotFoundError, "has no model somebody/small.*HF_TOKEN"),
        ([404], "RevisionNotFound", None, ModelNotFoundError, "has no revision main"),
        ([401], "", None, ModelNotFoundError, "has no model.*if it is private"),
        ([401], "", "hf_secret", PullError, "does not take the token"),
        ([403], "GatedRepo", "hf_secret", PullError, "needs its licence to be accepted.*HF_TOKEN"),
        ([403], "", "hf_secret", PullError, "does not let you have"),
        ([429], "", None, PullError, "too many requests"),
        ([500], "", None, PullError, "is in trouble"),
        ([418], "", None, PullError, r"refused somebody/small \(status 418\)"),
    ],
)
def test_what_a_hub_refuses_is_said(
    status: list[int],
    code: str,
    token: str | None,
    error: type[HomeboxError],
    match: str,
    hub: LocalHub,
    catalogue: Catalogue,
) -> None:
    hub.status["api"], hub.code = status, code
    text = refused(hub, catalogue, error, match, token=token)
    assert "hf_secret" not in text


def test_a_hub_that_is_busy_for_a_while_is_asked_again(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.status[WEIGHTS] = [503, 429, 500]
    assert pulled(hub, catalogue).new
    hub.commit = "d" * 40
    hub.repos[REPO] = {**hub.repos[REPO], WEIGHTS: hub.repos[REPO][WEIGHTS][:-4] + b"\0\0\0\0"}
    hub.status[WEIGHTS] = [503] * 20
    with pytest.raises(PullError, match=r"gave up after 5 tries.*in trouble"):
        pulled(hub, catalogue)


def test_a_file_that_is_gated_alone_says_so(hub: LocalHub, catalogue: Catalogue) -> None:
    hub.status["config.json"], hub.code = [403], "GatedRepo"
    refused(hub, catalogue, PullError, "needs its licence")


def test_no_network(catalogue: Catalogue) -> None:
    with pytest.raises(PullError, match=r"cannot reach http://127.0.0.1:9.*models list"):
        pull.pull(catalogue, Hub("http://127.0.0.1:9"), pull.parse(REPO), lambda _: None)


@pytest.mark.parametrize("text", ["../up", "a/b/c", "/etc", "a b", "", "a/..", "a@../x", "a@b c"])
def test_names_that_are_none(text: str, hub: LocalHub, catalogue: Catalogue) -> None:
    refused(hub, catalogue, UsageError, "is no (name of a repository|revision)", text)
    assert hub.requests == []


# -- the disk ----------------------------------------------------------------------------------


def test_a_full_disk_is_said_and_the_pull_goes_on_later(
    hub: LocalHub, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    real = os.write

    def full(handle: int, data: bytes) -> int:
        nonlocal written
        if written > 1_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += real(handle, data)
        return len(data)

    with monkeypatch.context() as patch:
        patch.setattr(download.os, "write", full)
        refused(hub, catalogue, PullError, "No space left on device; .* are needed.*what came is")
    found = pulled(hub, catalogue)
    assert hub.of(WEIGHTS)[-1]["range"] != "bytes=0-"
    assert catalogue.check(found.entry.name) == []


def test_too_small_a_disk_is_said_before_the_download(
    hub: LocalHub, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(
        pull.shutil, "disk_usage", lambda _: usage._replace(free=pull.SPARE + 10**6)
    )
    refused(hub, catalogue, PullError, r"needs 5\.4 MB more, and the disk of .*homebox models list")
    assert hub.sent(WEIGHTS) == 0


def test_what_a_crash_leaves_is_not_listed_and_then_cleaned(
    hub: LocalHub, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("homebox.hub.catalogue.replace_file", crash)
        with pytest.raises(KeyboardInterrupt):
            pulled(hub, catalogue)
    assert list((catalogue.root / "objects").glob("*/*"))
    assert catalogue.names() == []
    found = pulled(hub, catalogue)
    assert len(list((catalogue.root / "objects").glob("*/*"))) == len(found.entry.files)
    assert hub.sent(WEIGHTS) == 1, "what had come was found again"


# -- what does not run here --------------------------------------------------------------------


def test_a_family_that_does_not_run_is_refused_before_its_weights_come(
    hub: LocalHub, catalogue: Catalogue
) -> None:
    hub.repos[REPO]["config.json"] = json.dumps(
        {"model_type": "mamba", "architectures": ["MambaForCausalLM"]}
    ).encode()
    text = refused(hub, catalogue, ModelFormatError, "Mamba.*nothing more was downloaded")
    assert REPO in text
    assert str(catalogue.root) not in text
    assert hub.sent(WEIGHTS) == 0
    assert not list((catalogue.root / "partial").glob("*"))


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({WEIGHTS: None}, ModelFormatError, "only as pickles"),
        ({WEIGHTS: None, "pytorch_model.bin": None, "original/consolidated.pth": None},
         ModelNotFoundError, "holds no model"),
        ({"config.json": b"{}", }, ModelFormatError, "config.json"),
        ({"tokenizer.model": None}, ModelNotFoundError, f"{REPO} has neither tokenizer.json nor"),
        ({WEIGHTS: None, "model.safetensors.index.json":
          b'{"weight_map": {"a": "../x.safetensors"}}'}, ModelFormatError, "no plain file"),
        ({WEIGHTS: None, "model.safetensors.index.json":
          b'{"weight_map": {"a": "x.safetensors"}}'}, ModelNotFoundError, "lacks x.safetensors"),
    ],
)  # fmt: skip
def test_repositories_without_a_model(
    changes: dict[str, bytes | None],
    error: type[HomeboxError],
    match: str,
    hub: LocalHub,
    catalogue: Catalogue,
) -> None:
    files: dict[str, bytes | None] = {**hub.repos[REPO], **changes}
    hub.repos[REPO] = {name: data for name, data in files.items() if data is not None}
    refused(hub, catalogue, error, match)


# -- GGUF --------------------------------------------------------------------------------------


def test_one_of_several_gguf_files(hub: LocalHub, catalogue: Catalogue, shared: Path) -> None:
    data = (shared / "data" / "gguf" / "stories260K-Q8_0.gguf").read_bytes()
    names = (
        "small-Q8_0.gguf",
        "small-Q4_K_M.gguf",
        "mmproj-small-f16.gguf",
        "big-00001-of-00002.gguf",
    )
    hub.repos[REPO] = dict.fromkeys(names, data) | {"README.md": b"x"}
    match = r"several GGUF files.*--file.*small-Q4_K_M.gguf \(.*small-Q8_0.gguf"
    assert "mmproj" not in refused(hub, catalogue, ModelNotFoundError, match)
    refused(hub, catalogue, ModelNotFoundError, "no GGUF file 'Q9'", f"{REPO}:Q9")
    refused(hub, catalogue, ModelFormatError, "in parts", f"{REPO}:big-00001-of-00002.gguf")
    found = pulled(hub, catalogue, f"{REPO}:q8_0@v1")
    assert found.entry.name == f"{REPO}:Q8_0"
    assert (found.entry.kind, found.entry.type) == ("gguf", "Q8_0")
    assert found.entry.path.read_bytes() == data
    assert open_model(found.entry.path).base_hash == found.entry.base
    hub.break_after["small-Q4_K_M.gguf"] = [0]
    other = pulled(hub, catalogue, f"{REPO}:small-Q4_K_M.gguf")
    assert other.downloaded == 0, "the same bytes under another name"
    assert len(list((catalogue.root / "objects").glob("*/*"))) == 1


def test_a_gguf_file_is_continued_after_its_header(
    hub: LocalHub, catalogue: Catalogue, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "HEADER", 100_000)
    data = (shared / "data" / "gguf" / "stories260K-Q8_0.gguf").read_bytes()
    hub.repos[REPO] = {"small.gguf": data}
    hub.break_after["small.gguf"] = [30_000]
    found = pulled(hub, catalogue)
    ranges = [headers["range"] for headers in hub.of("small.gguf")]
    last = len(data) - 1
    assert ranges == ["bytes=0-99999", "bytes=30000-99999", f"bytes=100000-{last}"]
    assert found.entry.path.read_bytes() == data
    assert found.entry.name == REPO


def test_a_gguf_family_that_does_not_run_is_refused_after_its_header(
    hub: LocalHub, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "HEADER", 4096)
    path = tmp_path / "x.gguf"
    tensors = {"token_embd.weight": np.zeros((1000, 100), dtype=np.float32)}
    write_gguf(path, {"general.architecture": "bitnet"}, tensors)
    hub.repos[REPO] = {"x.gguf": path.read_bytes()}
    refused(hub, catalogue, ModelFormatError, "bitnet.*nothing more was downloaded")
    assert [headers["range"] for headers in hub.of("x.gguf")] == ["bytes=0-4095"]
    hub.repos[REPO] = {"x.gguf": b"<html>" * 10_000}
    refused(hub, catalogue, ModelFormatError, "is no GGUF file")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Qwen3-0.6B-Q8_0.gguf", "Q8_0"),
        ("a/b/model.Q4_K_M.gguf", "Q4_K_M"),
        ("x-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("x-IQ2_XXS.gguf", "IQ2_XXS"),
        ("x-bf16.gguf", "bf16"),
        ("gpt-oss-20b-mxfp4.gguf", "mxfp4"),
        ("plain.gguf", "plain"),
    ],
)
def test_types_in_names(name: str, kind: str) -> None:
    assert choice.type_of(name) == kind


# -- offline -----------------------------------------------------------------------------------


def test_offline_says_what_is_here(hub: LocalHub, catalogue: Catalogue) -> None:
    with pytest.raises(PullError, match=r"is not on this box.*here: nothing"):
        pull.here(catalogue, Wanted(REPO))
    entry = pulled(hub, catalogue).entry
    asked = len(hub.requests)
    assert pull.here(catalogue, Wanted(REPO)) == entry
    assert pull.here(catalogue, Wanted(REPO, COMMIT[:10])) == entry
    with pytest.raises(PullError, match="at v2 is not on this box"):
        pull.here(catalogue, Wanted(REPO, "v2"))
    assert len(hub.requests) == asked


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a/b", Wanted("a/b")),
        ("a/b@v1", Wanted("a/b", "v1")),
        ("hf.co/a/b:Q8_0", Wanted("a/b", file="Q8_0")),
        ("https://huggingface.co/a/b:Q8_0@v1", Wanted("a/b", "v1", "Q8_0")),
    ],
)
def test_how_repositories_are_written(text: str, wanted: Wanted) -> None:
    assert pull.parse(text) == wanted


def test_the_library_reports_nothing(hub: LocalHub, catalogue: Catalogue) -> None:
    pulled(hub, catalogue)
    routes = {path.split("/")[1] for _, path, _ in hub.requests}
    assert routes == {"api", "somebody"}
    assert {path for _, path, _ in hub.requests if path.startswith("/api/")} == {
        f"/api/models/{REPO}/revision/main"
    }
    assert model_path("tiny").is_dir()


def test_a_tokenizer_that_does_not_run_is_refused_before_the_weights_come(
    hub: LocalHub, catalogue: Catalogue
) -> None:
    hub.repos[REPO]["tokenizer.json"] = b'{"model": {"type": "Fancy"}}'
    text = refused(hub, catalogue, ModelFormatError, "tokenizer.json: .*nothing more was")
    assert text.startswith(f"{REPO}: tokenizer.json")
    assert hub.sent(WEIGHTS) == 0
