"""One training step."""

from chimera.engine.step import train_step

__all__ = ["train_step"]
