"""GGUF files of the cases against transformers, llama.cpp and the `gguf` package; see test_gguf.py.

Run by `make parity`.
"""

from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")
pytest.importorskip("peft")
llama_cpp = pytest.importorskip("llama_cpp")

from homebox.model.gguf import GGUFFile  # noqa: E402
from homebox.model.loading.gguf_format import choose_gguf_packing  # noqa: E402
from homebox.model.loading.gguf_model import load_gguf_weights  # noqa: E402
from tests.parity import ours, reference, table  # noqa: E402
from tests.parity.cases import GGUF_CASES, LENGTH, TYPES, WIDE, Case  # noqa: E402
from tests.parity.gguf_files import write_gguf  # noqa: E402
from tests.parity.llama_peer import LlamaPeer  # noqa: E402
from tests.parity.peer import Peer, stored_tensors  # noqa: E402
from tests.parity.reference import LlamaReference  # noqa: E402
from tests.parity.weights import Stored, tokens, write_directory  # noqa: E402

Logits = npt.NDArray[np.float32]

EXACT = ("Q8_0", "Q4_0")  # in the formats of the kernels

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def asked(
    case: Case, kind: str, path: Path, tensors: list[Stored]
) -> tuple[LlamaReference, Logits]:
    """Return what llama.cpp says: for the file, and all logits."""
    other = LlamaPeer(path)
    theirs = other.logits(tokens(case.seed, "logits", LENGTH))
    greedy, lead = other.greedy(ours.prompts(case)[0])
    other.close()
    versions = {m.__name__: m.__version__ for m in (llama_cpp,)}
    versions["gguf"] = metadata.version("gguf")
    logits = theirs[list(reference.FEW)]
    known = LlamaReference(
        case.name, kind, case.seed, versions, case.config, tensors, logits, greedy, lead
    )
    reference.write_llama(case, known)
    return known, theirs


@pytest.mark.parametrize("case", GGUF_CASES, ids=lambda case: case.name)
def test_architecture(case: Case, tmp_path: Path) -> None:
    tensors = stored_tensors(case)
    path = tmp_path / "model.gguf"
    write_gguf(path, case, tensors)
    write_directory(tmp_path, case, tensors)
    known, theirs = asked(case, "F32", path, tensors)
    ids, starts = tokens(case.seed, "logits", LENGTH), ours.prompts(case)
    peer = Peer(case, tmp_path)
    wanted = peer.logits(ids)
    greedy = [peer.greedy(start)[0].tolist() for start in starts]
    model = ours.opened(path)
    found, chosen = model.logits(ids.tolist()), ours.greedy(model, starts)
    kind = f"GGUF {'F32, experts MXFP4' if case.mxfp4 else 'F32'}"
    apart = greatest(found, wanted)
    table.note(case.name, kind, "transformers", logits=apart, ids=chosen == greedy)
    same = chosen[0] == known.greedy
    table.note(case.name, kind, "llama.cpp", logits=greatest(found, theirs), ids=same)
    assert apart < 1e-4
    assert chosen == greedy
    assert reference.distance(found, theirs) < reference.bound(case, "F32")
    assert same or known.lead < 2 * greatest(found, theirs)


@pytest.mark.parametrize("kind", TYPES)
def test_type(kind: str, tmp_path: Path) -> None:
    tensors = stored_tensors(WIDE)
    path = tmp_path / "model.gguf"
    write_gguf(path, WIDE, tensors, kind)
    known, theirs = asked(WIDE, kind, path, tensors)
    ids, starts = tokens(WIDE.seed, "logits", LENGTH).tolist(), ours.prompts(WIDE)

    bits_of_every_tensor(path)
    exact = ours.opened(path)
    found, chosen = exact.logits(ids), ours.greedy(exact, starts)
    same = chosen[0] == known.greedy
    table.note("llama-wide", f"GGUF {kind} as f32", "llama.cpp", greatest(found, theirs), same)
    assert reference.distance(found, theirs) < reference.bound(WIDE, kind)

    write_gguf(tmp_path / "plain.gguf", WIDE, tensors, kind, plain=True)
    plain = ours.opened(tmp_path / "plain.gguf")
    assert np.array_equal(plain.logits(ids), found)
    assert ours.greedy(plain, starts) == chosen

    # What a large file of this type becomes, against the float model of the same numbers.
    form = choose_gguf_packing(load_gguf_weights(path), None).form.name
    served = ours.opened(path, weights=form)
    same = ours.greedy(served, starts) == chosen
    apart = greatest(served.logits(ids), found)
    table.note("llama-wide", f"GGUF {kind} as {form}", "its own float32", apart, same)
    assert same or kind not in EXACT


def greatest(found: Logits, wanted: Logits) -> float:
    """Return the greatest difference."""
    return float(np.abs(found - wanted).max())


def bits_of_every_tensor(path: Path) -> None:
    """Compare what is read with what the `gguf` package reads."""
    opened = GGUFFile(path)
    for tensor in gguf.GGUFReader(path).tensors:
        wanted = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        found = opened.tensor(tensor.name).dequantize()
        wanted = np.asarray(wanted, np.float32).reshape(found.shape)
        assert np.array_equal(found.view(np.uint32), wanted.view(np.uint32)), tensor.name
