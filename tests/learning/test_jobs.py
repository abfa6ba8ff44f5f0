"""Jobs run again: the same spec gives the same weights, here, elsewhere, and with other threads."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from homebox.config import Config
from homebox.errors import LearningError
from homebox.learning.checkpoint import MAX_SPEC_BYTES, load_spec, spec_in
from homebox.learning.curriculum import curriculum_of
from homebox.learning.jobs.bundle import bundle, unbundle
from homebox.learning.jobs.job import Job, execute, read_job
from homebox.learning.training.train import recipe_of
from homebox.memory.state import State, open_state
from homebox.memory.store import canonical_json
from homebox.model import Model, load
from homebox.scheduler import run_inline
from tests.learning.kit import OWNER, lessons

STEPS = 6
BASE = "b" * 64


@pytest.fixture(scope="module")
def model() -> Model:
    return load("tiny", context=512)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with open_state(tmp_path / "state") as opened:
        yield opened


def job(state: State, base: str = BASE, texts: tuple[str, ...] = OWNER) -> Job:
    settings = replace(Config().learning, steps=STEPS)
    return Job(base, curriculum_of(lessons(*texts)).save(state.store), recipe_of(settings))


def weights_of(model: Model, state: State, asked: Job) -> str:
    return str(run_inline(execute(model, state.store, asked), lambda _: None))


def test_a_spec_names_everything_in_few_bytes_and_is_read_again(state: State) -> None:
    made = job(state)
    name = made.save(state.store)
    spec = json.loads(state.store.get(name))
    assert spec_in(state.store, name) == spec
    assert read_job(spec) == made
    assert len(canonical_json(spec)) < MAX_SPEC_BYTES / 5
    assert set(spec) == {"base", "curriculum", "kind", "numerics", "recipe"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "import"}, "import"),
        ({"numerics": 1}, "numerics"),
        ({"recipe": {"rank": 8}}, "recipe"),
        ({"recipe": {"rank": 8, "colour": "red"}}, "colour"),
        ({"base": None}, "base"),
    ],
)
def test_a_spec_that_cannot_be_repeated_says_why(
    state: State, change: dict[str, Any], words: str
) -> None:
    spec = {k: v for k, v in {**job(state).spec(), **change}.items() if v is not None}
    with pytest.raises(LearningError, match=words):
        read_job(spec)


def test_another_base_is_refused(model: Model, state: State) -> None:
    with pytest.raises(LearningError, match="belongs to base"):
        weights_of(model, state, job(state))


def test_the_same_job_gives_the_same_weights_on_another_box(
    model: Model, state: State, tmp_path: Path
) -> None:
    asked = job(state, model.base_hash)
    first = weights_of(model, state, asked)
    assert read_job(load_spec(state.store, first)) == asked
    assert weights_of(model, state, asked) == first
    file = tmp_path / "job.json"
    file.write_bytes(bundle(state.store, asked.save(state.store)))
    with open_state(tmp_path / "other") as other:
        name = unbundle(other.store, file)
        assert weights_of(model, other, read_job(spec_in(other.store, name))) == first
        # Control: one word less to learn is another job with other weights.
        less = weights_of(model, other, job(other, model.base_hash, OWNER[1:]))
        assert less != first


AGAIN = """
import sys
from pathlib import Path
from homebox.learning.checkpoint import spec_in
from homebox.learning.jobs.bundle import unbundle
from homebox.learning.jobs.job import execute, read_job
from homebox.memory.state import open_state
from homebox.model import load
from homebox.scheduler import run_inline

with open_state(Path(sys.argv[2])) as state:
    job = read_job(spec_in(state.store, unbundle(state.store, Path(sys.argv[1]))))
    print(run_inline(execute(load("tiny", context=512), state.store, job), lambda _: None))
"""


def test_the_number_of_threads_changes_nothing(model: Model, state: State, tmp_path: Path) -> None:
    asked = job(state, model.base_hash)
    file = tmp_path / "job.json"
    file.write_bytes(bundle(state.store, asked.save(state.store)))
    found = set()
    for threads in ("1", "2"):
        command = [sys.executable, "-c", AGAIN, str(file), str(tmp_path / threads)]
        environment = {**os.environ, "HOMEBOX_THREADS": threads}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout.strip())
    assert found == {weights_of(model, state, asked)}


def bundled(state: State) -> dict[str, Any]:
    return dict(json.loads(bundle(state.store, job(state).save(state.store))))


def damaged(value: dict[str, Any], how: str) -> dict[str, Any]:
    objects, name = value["objects"], value["job"]
    other = next(each for each in objects if each != name)
    if how == "changed":
        objects[other] = objects[other].replace("Quark", "Quirk")
    elif how == "missing":
        del objects[other]
    elif how == "foreign":
        value["kind"] = "homebox diary"
    elif how == "long":
        spec = {**json.loads(objects[name]), "more": "x" * MAX_SPEC_BYTES}
        data = canonical_json(spec)
        value["job"] = hashlib.sha256(data).hexdigest()
        objects[value["job"]] = data.decode()
    else:
        value["objects"] = [name]
    return value


@pytest.mark.parametrize("how", ["changed", "missing", "foreign", "long", "list"])
def test_a_damaged_bundle_is_refused_and_nothing_of_it_is_kept(
    state: State, tmp_path: Path, how: str
) -> None:
    file = tmp_path / "job.json"
    file.write_text(json.dumps(damaged(bundled(state), how)))
    with open_state(tmp_path / "other") as other:
        with pytest.raises(LearningError, match=r"job\.json"):
            unbundle(other.store, file)
        assert not [path for path in (tmp_path / "other/objects").rglob("*") if path.is_file()]
        # Control: the same without damage is kept.
        file.write_text(json.dumps(bundled(state)))
        assert other.store.has(unbundle(other.store, file))
