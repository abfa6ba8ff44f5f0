"""A job in one file: the spec and every object that it names, for a box that has only the base.

The one idea: objects are their bytes, so a bundle is a JSON object of hash -> text, and whoever
reads it believes no hash that it did not compute. Invariant: nothing of a bundle is kept unless all
of it fits its hashes and the spec is at most 10 kB.
"""

import hashlib
import json
from pathlib import Path

from homebox.errors import LearningError
from homebox.learning.checkpoint import MAX_SPEC_BYTES, spec_in
from homebox.learning.jobs.job import read_job
from homebox.memory.store import Store, canonical_json

KIND = "homebox job"
MOST = 64 << 20  # bytes of a file


def bundle(store: Store, name: str) -> bytes:
    """Return the file of the job spec `name`."""
    job = read_job(spec_in(store, name))
    wanted = [name, job.curriculum, *([job.samples] if job.samples else [])]
    objects = {each: store.get(each).decode("utf-8") for each in wanted}
    return canonical_json({"kind": KIND, "job": name, "objects": objects})


def unbundle(store: Store, path: Path) -> str:
    """Keep the objects of a file and return the hash of its job spec.

    Raises LearningError for a file that is no bundle or does not fit its hashes.
    """
    try:
        if path.stat().st_size > MOST:
            raise LearningError(f"{path} is larger than {MOST >> 20} MiB: no job is")
        value = json.loads(path.read_bytes())
        name, objects = value["job"], value["objects"]
        data = {each: text.encode("utf-8") for each, text in objects.items()}
        if value["kind"] != KIND or name not in data:
            raise KeyError(name)
    except OSError as error:
        raise LearningError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LearningError(f"{path} is no job that homebox exported ({error!r})") from error
    for each, content in data.items():
        if hashlib.sha256(content).hexdigest() != each:
            raise LearningError(f"{path}: object {each[:12]} is not what its hash says")
    if len(data[name]) > MAX_SPEC_BYTES:
        raise LearningError(f"{path}: the spec has more than {MAX_SPEC_BYTES} bytes")
    job = read_job(json.loads(data[name]))
    missing = {job.curriculum, job.samples} - {"", *data}
    if missing:
        raise LearningError(f"{path} lacks the object {min(missing)[:12]} that the spec names")
    for content in data.values():
        store.put(content)
    return str(name)
