"""Compose PyTorch modules into bigger ones and run many of them as one.

Every public name is loaded on first use, so that ``import chimera`` does not import torch.
A room and its main function may share a name (``chimera.fit`` the package, ``ch.fit`` the
function): as an attribute the name always means the function; ``from chimera.fit.data import ...``
reaches into the room.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from chimera import optim as optim
    from chimera.blocks import Cond as Cond
    from chimera.blocks import Constant as Constant
    from chimera.blocks import Parallel as Parallel
    from chimera.blocks import Repeat as Repeat
    from chimera.blocks import Residual as Residual
    from chimera.blocks import Sequential as Sequential
    from chimera.blocks import While as While
    from chimera.build import build as build
    from chimera.build import inputs as inputs
    from chimera.build import instances as instances
    from chimera.build import pointing as pointing
    from chimera.build import shapes as shapes
    from chimera.build import spec as spec
    from chimera.check import Finding as Finding
    from chimera.check import check as check
    from chimera.check import contract as contract
    from chimera.draws import randomness as randomness
    from chimera.engine import infer as infer
    from chimera.engine import train_step as train_step
    from chimera.fit import LogUniform as LogUniform
    from chimera.fit import fit as fit
    from chimera.fit.data import data as data
    from chimera.fit.digits import digits as digits
    from chimera.fuse import fuse as fuse
    from chimera.fuse import to_parallel as to_parallel
    from chimera.fuse import unfuse as unfuse
    from chimera.paths import ChimeraWarning as ChimeraWarning
    from chimera.scale.distribute import distribute as distribute
    from chimera.stack import Stack as Stack
    from chimera.stack import each as each
    from chimera.stack import explain as explain
    from chimera.stack import load as load
    from chimera.stack import save as save
    from chimera.store import CheckpointError as CheckpointError
    from chimera.store import LockedError as LockedError
    from chimera.summary import Summary as Summary
    from chimera.summary import summary as summary
    from chimera.verify import verify as verify

_HOMES = {
    "chimera.blocks": ("Sequential", "Parallel", "Residual", "Repeat", "While", "Cond", "Constant"),
    "chimera.build": ("spec", "inputs", "build", "shapes", "instances", "pointing"),
    "chimera.check": ("check", "contract", "Finding"),
    "chimera.draws": ("randomness",),
    "chimera.paths": ("ChimeraWarning",),
    "chimera.stack": ("Stack", "each", "explain", "save", "load"),
    "chimera.store": ("CheckpointError", "LockedError"),
    "chimera.engine": ("train_step", "infer"),
    "chimera.summary": ("summary", "Summary"),
    "chimera.verify": ("verify",),
    "chimera.scale.distribute": ("distribute",),
    "chimera.fuse": ("fuse", "unfuse", "to_parallel"),
    "chimera.fit": ("fit", "data", "digits", "LogUniform"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
_ROOMS = ("optim",)

__all__ = ["__version__", "optim", *_HOME]


class _Package(ModuleType):
    """A package in which importing a room does not hide the public function of the same name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"chimera.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'chimera' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
