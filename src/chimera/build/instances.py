"""Several instances of one factory, each under a seed of its own."""

import operator
import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from chimera.build.builder import furnish, tried
from chimera.build.construct import Factory, check_factory, construct, name_of
from chimera.build.inputs import Inputs, as_specified
from chimera.build.lazy import structure
from chimera.build.trial import Trial
from chimera.draws.seeds import as_seed, derive
from chimera.paths.notice import ChimeraWarning
from chimera.paths.structure import Reading, difference

_Call = tuple[Factory, tuple[Any, ...], dict[str, Any]]


def instances(
    factory: Factory, n: int, /, *args: Any, seed: int = 0, spec: Any = None, **kwargs: Any
) -> list[nn.Module]:
    """``n`` modules made by ``factory(*args, **kwargs)``, plain and independent.

    Instance ``i`` is made under generators that belong to (seed, i): the same call gives the same
    instances, instance ``i`` is the same whatever ``n`` is, and the caller's generators are left
    alone.

    Args:
        factory: a class or a function that makes a module.
        n: how many.
        seed: the seed of all; (``args`` and the other ``kwargs`` go to the factory).
        spec: inputs to build each on, as in ``ch.build``; None leaves lazy modules as they are.

    Raises:
        TypeError: if ``factory`` makes no modules, or is a module itself; if ``n`` is no int.
        ValueError: if ``n`` is less than 1, or the factory returns one module twice.
        Exception: what the constructor or the build raises, with a note that names the instance.
    """
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"n must be an int; got {n!r} of type {type(n).__name__}")
    count = operator.index(n)
    if count < 1:
        raise ValueError(f"n must be at least 1; got {count}")
    check_factory(factory, "factory")
    return _made([(factory, args, kwargs)] * count, seed, spec)


def instances_of(
    factories: Sequence[Factory], *, seed: int = 0, spec: Any = None
) -> list[nn.Module]:
    """One module of each factory, instance ``i`` of the ``i``-th; else as ``instances``.

    Instance ``i`` is what ``instances`` makes of that factory at the same place.

    Args:
        factories: classes or functions that make a module each.
        seed: the seed of all.
        spec: inputs to build each on; None leaves lazy modules as they are.

    Raises:
        TypeError, ValueError, Exception: as ``instances``.
    """
    if not factories:
        raise ValueError("factories is empty: at least one is needed")
    for index, factory in enumerate(factories):
        check_factory(factory, f"factories[{index}]")
    return _made([(factory, (), {}) for factory in factories], seed, spec)


def _made(calls: Sequence[_Call], seed: int, spec: Any) -> list[nn.Module]:
    seed = as_seed(seed)
    inputs = None if spec is None else as_specified(spec)
    made = [construct(*call, seed, index) for index, call in enumerate(calls)]
    first: dict[int, int] = {}
    for index, module in enumerate(made):
        if first.setdefault(id(module), index) != index:
            raise ValueError(
                f"instances {first[id(module)]} and {index} are one module; "
                f"{name_of(calls[index][0])} must make a new one at each call"
            )
    if inputs is None:
        return made
    notes: dict[str, None] = {}
    known: list[tuple[Reading, Trial]] = []
    for index, module in enumerate(made):
        try:
            trial = _known(module, inputs, known)
            notes.update(dict.fromkeys(furnish(module, trial, derive(seed, "instance", index))))
        except Exception as error:
            error.add_note(f"in the build of instance {index}")
            raise
    if notes:
        text = f"instances: in each of {len(made)}: " + "; ".join(notes)
        warnings.warn(text, ChimeraWarning, stacklevel=3)
    return made


def _known(module: nn.Module, inputs: Inputs, known: list[tuple[Reading, Trial]]) -> Trial:
    """What trying ``module`` out shows, taken from ``known`` where its structure is there.

    A trial that read values of the module's tensors holds for that module alone.
    """
    reading = structure(module)
    for other, trial in known:
        if difference(other, reading) is None:
            return trial
    trial = tried(module, inputs, None, None)
    if not trial.reads_values:
        known.append((reading, trial))
    return trial
