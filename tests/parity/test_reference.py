"""Every case against the files that the peers left: logits, greedy ids, gradients.

The live comparison, which writes those files, is in test_live.py.
"""

import numpy as np
import pytest

from tests.parity import ours, reference, table
from tests.parity.cases import BY_NAME, CASES, GGUF_CASES, LENGTH, Case
from tests.parity.weights import batch_ids, tokens, write_directory

LOGITS = 1e-4  # greatest difference
GRADIENT = 1e-3  # of its norm


@pytest.fixture(scope="module", params=[case.name for case in CASES])
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Case, reference.Reference, ours.Model]:
    case = BY_NAME[request.param]
    known = reference.read(case)
    folder = tmp_path_factory.mktemp("model")
    write_directory(folder, case, known.tensors)
    return case, known, ours.opened(folder)


Opened = tuple[Case, reference.Reference, ours.Model]


def test_logits_are_those_of_the_reference(opened: Opened) -> None:
    case, known, model = opened
    assert (case.config, case.seed) == (known.config, known.seed)
    ids = tokens(case.seed, "logits", LENGTH)
    assert ids.tolist() == known.ids
    found = model.logits(known.ids)[list(reference.ROWS)]
    assert np.abs(found - known.logits).max() < LOGITS


def test_greedy_ids_of_a_batch_taken_in_by_chunks(opened: Opened) -> None:
    case, known, model = opened
    starts = ours.prompts(case)
    assert [start.tolist() for start in starts] == known.prompts
    assert ours.greedy(model, starts) == known.greedy


def test_gradient_of_an_adapter(opened: Opened) -> None:
    case, known, model = opened
    loss, gradient = ours.gradient(model, case.seed, *batch_ids(case))
    assert abs(loss - known.loss) < 1e-5 * known.loss
    assert set(gradient) == set(known.gradient)
    for name, wanted in known.gradient.items():
        found = reference.sketch(name, gradient[name])
        # The products of a difference of norm d with a vector of +-1 are about d, seldom above 4 d.
        worst = max(abs(a - b) for a, b in zip(found, wanted, strict=True))
        assert worst < 4 * GRADIENT * wanted[0], (name, worst / wanted[0])


def test_the_files_are_few_and_small() -> None:
    files = sorted(reference.FOLDER.iterdir())
    assert {path.stem for path in files} >= set(BY_NAME)
    assert sum(path.stat().st_size for path in files) < 450_000


def test_the_page_shows_what_was_measured() -> None:
    text = table.PAGE.read_text()
    assert text == table.page(text)
    rows = {tuple(key.split("|")) for key in table.measured()}
    for case in CASES:
        assert (case.name, case.kind, "transformers") in rows
    assert {name for name, _, peer in rows if peer == "llama.cpp"} >= {c.name for c in GGUF_CASES}
    # Control: a figure that was not measured would be seen.
    assert text.replace("e-06", "e-07", 1) != table.page(text)
