"""Training of adapters on a frozen base, and of the built-in model."""

from homebox.engine.runtime.stop_flag import StopFlag
from homebox.model.training.trainer import Batch, LoraTrainer, StepResult

__all__ = ["Batch", "LoraTrainer", "StepResult", "StopFlag"]
