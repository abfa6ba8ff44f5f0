"""Training of adapters on a frozen base, and of the built-in model."""

from homebox.model.training.trainer import Batch, LoraTrainer, StepResult

__all__ = ["Batch", "LoraTrainer", "StepResult"]
