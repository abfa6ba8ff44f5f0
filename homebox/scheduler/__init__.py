"""The engine thread: the one place where the model runs, and how others ask it for something."""

from homebox.scheduler.contract import Chunk, Interrupt, Observer, Runner, Running
from homebox.scheduler.engine import ANSWERS_PER_LEARNING, Engine
from homebox.scheduler.generation import CANCELLED, ERROR, End, Generation, Said
from homebox.scheduler.learning import Learning, run_inline

__all__ = [
    "ANSWERS_PER_LEARNING",
    "CANCELLED",
    "ERROR",
    "Chunk",
    "End",
    "Engine",
    "Generation",
    "Interrupt",
    "Learning",
    "Observer",
    "Runner",
    "Running",
    "Said",
    "run_inline",
]
