"""Building: from specifications to materialized, initialized parameters.

Shapes come from a run of a copy without data (or, with ``example``, of a copy on real tensors).
Then the network itself gets its parameters: each lazy module under a generator seeded by (seed,
path), on the CPU, so that what is drawn depends on nothing else. If anything fails, the network is
as it was.
"""

import warnings
from typing import Any

import torch
from torch import nn

from chimera.build.adopt import adopt
from chimera.build.construct import Factory, as_dtype, check_factory, construct
from chimera.build.initialize import Schemes, apply_schemes, as_schemes, reset
from chimera.build.inputs import Inputs, as_specified
from chimera.build.lazy import initialize, is_lazy, waiting
from chimera.build.run import without_data
from chimera.build.snapshot import unchanged_on_error
from chimera.build.trial import Trial, as_example, try_example, try_shapes
from chimera.draws.seeds import as_seed, derive, forked
from chimera.paths.arguments import as_device, as_flag
from chimera.paths.notice import ChimeraWarning
from chimera.paths.walk import first_paths, join


def build(
    module_or_factory: nn.Module | Factory,
    spec: Any = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    example: Any = None,
    reinitialize: bool = False,
    init: Schemes | None = None,
) -> nn.Module:
    """Give a network its parameters, from the shapes of its inputs; return the network.

    A module is built in place: its parameters stay the objects they are, so that an optimizer made
    before still trains them. Parameters that have values keep them. Building twice is building
    once. Tensors that are plain attributes become buffers, with a ``ChimeraWarning``.

    Args:
        module_or_factory: a module, or a class or function without arguments that makes one; it
            is called under a generator that belongs to ``seed``, the caller's being left alone.
        spec: the inputs: ``ch.spec(2, 20)``, or ``ch.inputs(...)`` for several. Data are not
            needed: conditions on data (``if``, ``while``) are tried both ways; each way through
            a ``Cond`` or ``While`` must run.
        seed: what is drawn for a path depends on (seed, path) alone.
        device: where the network goes. What is drawn is drawn on the CPU all the same.
        dtype: the dtype of the network's floating tensors; floating inputs are taken to have it.
        example: real inputs, in the place of ``spec``, for a network whose shapes depend on data.
        reinitialize: draw again what modules with ``reset_parameters`` own; a ``ChimeraWarning``
            names the parameters that none of them draws.
        init: schemes by pattern of path: ``{"**.conv*.weight": nn.init.kaiming_normal_}``. Each is
            called with the parameter, under the parameter's own seed; the last that matches wins.

    Raises:
        TypeError: if an argument is not what it should be.
        ValueError: if lazy modules were never reached, a pattern of ``init`` matches nothing, or
            ``device`` is none of this machine.
        Exception: what the network raises when it runs, with a note that names the path, the
            shapes that came, those that were wanted, and who made them.
    """
    if spec is None and example is None:
        raise TypeError("build: give spec=ch.spec(...), or example= real tensors")
    inputs = None if spec is None else as_specified(spec)
    given = None if example is None else as_example(example)
    schemes, kind, seed = as_schemes(init), as_dtype(dtype), as_seed(seed)
    place = None if device is None else as_device("device", device)
    again = as_flag("reinitialize", reinitialize)
    if isinstance(module_or_factory, nn.Module):
        net = module_or_factory
    else:
        net = construct(check_factory(module_or_factory, "module_or_factory"), (), {}, seed, 0)
    trial = tried(net, inputs, given, kind)
    notes = furnish(net, trial, seed, place, kind, again, schemes)
    if notes:
        warnings.warn("build: " + "; ".join(notes), ChimeraWarning, stacklevel=2)
    return net


def tried(
    net: nn.Module, inputs: Inputs | None, example: Inputs | None, dtype: torch.dtype | None
) -> Trial:
    """What running a copy of ``net`` shows; every lazy module was reached.

    Raises:
        ValueError: if a lazy module was never reached.
        Exception: what the run raises.
    """
    if example is not None:
        trial = try_example(net, example, dtype)
    else:
        assert inputs is not None
        trial = try_shapes(net, inputs, dtype)
    missed: list[str] = []
    foreign: list[str] = []
    for module, path in first_paths(net).items():
        names = waiting(module)
        if is_lazy(module) and names and path not in trial.calls:
            missed.append(path or "(root)")
        elif names and not is_lazy(module):
            foreign.extend(join(path, name) for name in names)
    if missed:
        raise ValueError(
            f"lazy modules that no run reached have no shapes: {', '.join(missed)}; call them in "
            "forward, remove them, or give them their sizes"
        ) from trial.failed
    if foreign:
        raise ValueError(
            f"uninitialized parameters outside lazy modules: {', '.join(foreign)}; derive their "
            "module from torch.nn.modules.lazy.LazyModuleMixin"
        )
    return trial


def furnish(
    net: nn.Module,
    trial: Trial,
    seed: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    reinitialize: bool = False,
    schemes: Schemes | None = None,
) -> list[str]:
    """Give ``net`` what ``trial`` has shown that it needs; what is worth knowing, a line each."""
    with unchanged_on_error(net, values=reinitialize or bool(schemes)):
        for module, path in first_paths(net).items():
            if is_lazy(module) and path in trial.calls:
                inputs = without_data(trial.calls[path].inputs)
                try:
                    with forked(derive(seed, path)):
                        initialize(module, inputs)
                except Exception as error:
                    error.add_note(f"in the initialization of {path or '(root)'}: {module!r}")
                    raise
        notes = adopt(net, trial.kept)
        if reinitialize:
            left = reset(net, seed)
            if left:
                notes.append(
                    "not drawn again, since their modules have no reset_parameters: "
                    + ", ".join(left)
                )
        if schemes:
            apply_schemes(net, schemes, seed)
        if device is not None or dtype is not None:
            net.to(device=device, dtype=dtype)
    return notes
