"""What the gguf package makes of blocks of random bytes, as one hash per type.

`python -m tests.null.gguf_reference`, with that package installed, writes gguf_reference.json anew.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from homebox.model.gguf import BLOCKS, GGMLType

PATH = Path(__file__).with_suffix(".json")
NUMBERS = 1 << 16  # of each type
TYPES = [GGMLType.F32, GGMLType.F16, GGMLType.BF16]
TYPES += [GGMLType.Q4_0, GGMLType.Q4_1, GGMLType.Q5_0, GGMLType.Q5_1, GGMLType.Q8_0]
TYPES += [GGMLType.Q2_K, GGMLType.Q3_K, GGMLType.Q4_K, GGMLType.Q5_K, GGMLType.Q6_K]
TYPES += [GGMLType.IQ4_NL, GGMLType.IQ4_XS, GGMLType.MXFP4, GGMLType.TQ1_0, GGMLType.TQ2_0]


def random_blocks(kind: GGMLType, numbers: int = NUMBERS) -> npt.NDArray[np.uint8]:
    """Return the same bytes on every machine; scales are of every kind, infinite and NaN too."""
    block, nbytes = BLOCKS[kind]
    raw = hashlib.shake_128(kind.name.encode()).digest(numbers // block * nbytes)
    return np.frombuffer(raw, np.uint8)


def fingerprint(values: npt.NDArray[np.float32]) -> str:
    """Hash the bits of all values; which NaN it is depends on the processor and does not count."""
    plain = np.where(np.isnan(values), np.float32(np.nan), values)
    return hashlib.sha256(plain.astype("<f4").tobytes()).hexdigest()


def reference(kind: GGMLType, raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return what the gguf package makes of stored blocks."""
    import gguf
    from gguf.quants import dequantize

    with np.errstate(all="ignore"):
        return dequantize(raw.reshape(1, -1), gguf.GGMLQuantizationType(int(kind))).reshape(-1)


def main() -> None:
    """Write the hashes."""
    hashes = {kind.name: fingerprint(reference(kind, random_blocks(kind))) for kind in TYPES}
    PATH.write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
