"""The text of every kernel of some programs, as hashes: `python -m tests.unit.kernel_hashes`.

Prints what changed against the stored list; `--write` stores the new one, `--texts FOLDER` writes
the kernels themselves, so that two versions can be compared.
"""

import hashlib
import json
import sys
from pathlib import Path

from homebox.engine.codegen.cpu import VECTORS, make_target
from homebox.engine.codegen.llvm import render
from homebox.engine.fusion.fuse import partition
from homebox.engine.graph.ops import Op
from homebox.engine.kernels.lower import lower
from homebox.engine.runtime.plan import order_regions
from tests.unit.engine_checks import syms_of
from tests.unit.engine_programs import PROGRAMS

STORED = Path(__file__).with_name("kernel_hashes.json")
Hashes = dict[str, list[str]]
NEEDED = "avx2 fma avx512f avx512bw avx512dq avx512vl".split()


def texts(program: str, level: str) -> list[str]:
    """Return the LLVM IR of a program's kernels for a CPU level, in the order of their launches."""
    tensors = PROGRAMS[program]()
    roots = [t.node if t.node.op is Op.STORE else t.contiguous().node for t in tensors]
    cut, syms = partition(roots), syms_of(roots)
    features = dict.fromkeys(NEEDED, True)
    target = make_target("x86_64-unknown-linux-gnu", "x86-64", features, level)
    return [
        render(lower(region, cut.realised, syms, target.vector).kernel, "kernel", target)
        for region in order_regions(cut)
    ]


def hashes() -> Hashes:
    """Return the hashes of all kernels by "program level"."""
    return {
        f"{program} {level}": [
            hashlib.sha256(text.encode()).hexdigest()[:12] for text in texts(program, level)
        ]
        for program in PROGRAMS
        for level in VECTORS
    }


def differences(old: Hashes, new: Hashes) -> list[str]:
    """Say for each program which kernels changed."""
    said = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name, []), new.get(name, [])
        if len(before) != len(after):
            said.append(f"{name}: {len(before)} kernels became {len(after)}")
        elif changed := [i for i, pair in enumerate(zip(before, after)) if pair[0] != pair[1]]:
            said.append(f"{name}: kernels {changed} of {len(after)} changed")
    return said


def main(arguments: list[str]) -> None:
    """Compare, and store or write what is asked for."""
    new = hashes()
    for line in differences(json.loads(STORED.read_text()) if STORED.exists() else {}, new):
        print(line)
    if "--write" in arguments:
        STORED.write_text(json.dumps(new, indent=1) + "\n")
    if "--texts" in arguments:
        folder = Path(arguments[arguments.index("--texts") + 1])
        for name in new:
            program, level = name.split()
            for i, text in enumerate(texts(program, level)):
                path = folder / level / f"{program}.{i:03}.ll"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
