"""Every case against transformers and PEFT themselves; leaves the files of `reference/`.

Run by `make parity`. A file is written anew only where the peers are at hand, and says which
versions they had.
"""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from tests.parity import ours, reference, table  # noqa: E402
from tests.parity.cases import CASES, LENGTH, Case  # noqa: E402
from tests.parity.peer import Peer, stored_tensors  # noqa: E402
from tests.parity.weights import Stored, batch_ids, tokens, write_directory  # noqa: E402

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

LOGITS = 1e-4  # greatest difference
GRADIENT = 1e-3  # of its norm
LEAD = 2e-3  # a seed whose ids are decided by less is no good
GAP = 1e-3  # the same for the choice of experts


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case, tmp_path: Path) -> None:
    tensors = stored_tensors(case)
    write_directory(tmp_path, case, tensors)
    peer = Peer(case, tmp_path)
    known, every, gradient = asked(case, peer, tensors)
    reference.write(case, known)
    assert known.lead > LEAD, "choose another seed"
    assert known.gap is None or known.gap > GAP, "choose another seed"

    model = ours.opened(tmp_path)
    logits = float(np.abs(model.logits(known.ids) - every).max())
    states = model.transformer.hidden(np.array(known.ids, np.int32))
    assert float(np.abs(states - peer.hidden(np.array(known.ids, np.int32))).max()) < LOGITS
    ids = ours.greedy(model, ours.prompts(case)) == known.greedy
    loss, found = ours.gradient(model, case.seed, *batch_ids(case))
    assert set(found) == set(gradient)
    apart = max(
        float(np.linalg.norm(found[name] - wanted) / np.linalg.norm(wanted))
        for name, wanted in gradient.items()
    )
    table.note(case.name, case.kind, "transformers", logits=logits, ids=ids, gradient=apart)
    assert logits < LOGITS
    assert ids
    assert abs(loss - known.loss) < 1e-5 * known.loss
    assert apart < GRADIENT


def asked(
    case: Case, peer: Peer, tensors: list[Stored]
) -> tuple[reference.Reference, ours.Float32, dict[str, ours.Float32]]:
    """Return what the peers say: for the file, all logits, and the gradient as it is."""
    ids = tokens(case.seed, "logits", LENGTH)
    every = peer.logits(ids)
    starts = ours.prompts(case)
    outcomes = [peer.greedy(start) for start in starts]
    if not case.grows:  # their own loop turns earlier keys by less than later ones
        for start, (wanted, _) in zip(starts, outcomes, strict=True):
            assert peer.generated(start).tolist() == wanted.tolist()
    gap = [peer.router_gap(np.concatenate([s, g])) for s, (g, _) in zip(starts, outcomes)]
    loss, gradient = peer.gradient(*batch_ids(case))
    known = reference.Reference(
        case=case.name,
        seed=case.seed,
        versions={m.__name__: m.__version__ for m in (torch, transformers, peft)},
        config=case.config,
        tensors=tensors,
        ids=ids.tolist(),
        logits=every[list(reference.ROWS)],
        prompts=[start.tolist() for start in starts],
        greedy=[found.tolist() for found, _ in outcomes],
        lead=min(lead for _, lead in outcomes),
        gap=min(gap) if np.isfinite(gap).all() else None,
        loss=loss,
        gradient={n: reference.sketch(n, g) for n, g in sorted(gradient.items())},
    )
    return known, every, gradient
