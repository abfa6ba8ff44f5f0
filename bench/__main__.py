"""`python -m bench`: print every floor; exit 1 if one is missed."""

import sys

from bench import gemm, train_step
from homebox.engine.runtime.runtime_cpu import pool


def main() -> int:
    print(f"threads: {pool().threads}")
    results = [gemm.main(), train_step.main()]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
