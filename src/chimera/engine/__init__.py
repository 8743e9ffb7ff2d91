"""One training or inference step, by the engine that suits it."""

from chimera.engine.infer import infer
from chimera.engine.step import train_step

__all__ = ["infer", "train_step"]
