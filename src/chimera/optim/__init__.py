"""Optimizers whose hyper-parameters differ per member."""

from chimera.optim.adam import Adam
from chimera.optim.adamw import AdamW
from chimera.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW"]
