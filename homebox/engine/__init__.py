"""The tensor compiler: lazy graphs become fused kernels that run on all cores; see README.md."""

from homebox.engine.runtime import watching


def _debug() -> watching.Watcher:
    """Return what does what DEBUG and GRAPH ask for; loaded only then."""
    from homebox.engine.inspection import debug

    return debug.Printer()


watching.by_environment = _debug
