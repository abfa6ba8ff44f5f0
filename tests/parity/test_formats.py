"""Every architecture in the formats that large models are served in, against the reference."""

from pathlib import Path

import pytest

from tests.parity import ours, reference
from tests.parity.cases import CASES, Case
from tests.parity.weights import write_directory

# The RMS of what rounding changes, relative to the logits; a wrong product changes them by 1.
BOUNDS = {("bf16", "bf16"): 0.04, ("q8", "int8"): 0.1}
FAMILIES = tuple({case.architecture: case for case in reversed(CASES)}.values())


@pytest.mark.parametrize("case", FAMILIES, ids=lambda case: case.name)
@pytest.mark.parametrize(("weights", "activations"), BOUNDS)
def test_rounding_is_all_that_changes(
    case: Case, weights: str, activations: str, tmp_path: Path
) -> None:
    known = reference.read(case)
    write_directory(tmp_path, case, known.tensors)
    model = ours.opened(tmp_path, weights, activations)
    found = model.logits(known.ids)[list(reference.ROWS)]
    assert reference.distance(found, known.logits) < BOUNDS[weights, activations]
