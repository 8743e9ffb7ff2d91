"""Making parameters by torch's own means: lazy modules, and modules that draw theirs again.

The public ``initialize_parameters`` of a lazy module makes its parameters. What torch does around
it on a first call (a check, the removal of two hooks, the change of class) is private to torch, as
is the name ``_reset_parameters`` in some of its modules; both stand in this file alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from chimera.build.datafree import is_uninitialized
from chimera.build.inputs import Inputs
from chimera.paths.structure import Reading, read
from chimera.paths.walk import join


def is_lazy(module: nn.Module) -> bool:
    """Whether ``module`` waits for its first input to make its parameters."""
    return isinstance(module, LazyModuleMixin) and hasattr(module, "_initialize_hook")


def waiting(module: nn.Module) -> list[str]:
    """The names of the module's own parameters and buffers that have no shape yet."""
    own = {**module._parameters, **module._buffers}
    return [name for name, tensor in own.items() if is_uninitialized(tensor)]


def initialize(module: nn.Module, inputs: Inputs) -> None:
    """Give a lazy module its parameters, as its first call on ``inputs`` would.

    What is drawn is drawn on the CPU and moved to where the parameters were. A parameter that has
    values already keeps them.
    """
    own = {**module._parameters, **module._buffers}
    placed = [
        (tensor, tensor.data.device)
        for tensor in own.values()
        if tensor is not None and tensor.data.device.type not in ("cpu", "meta")
    ]
    for tensor, _ in placed:
        tensor.data = tensor.data.to("cpu")
    release = hold(module)
    try:
        infer: Any = module
        infer._infer_parameters(module, inputs.args, inputs.kwargs)
    finally:
        release()
    for tensor, device in placed:
        tensor.data = tensor.data.to(device)


def hold(module: nn.Module) -> Callable[[], None]:
    """Let the parameters that have values already keep them while ``module`` makes the others.

    Returns:
        What is to be called afterwards.
    """
    own = {**module._parameters, **module._buffers}
    held = [
        (tensor, tensor.detach().clone())
        for tensor in own.values()
        if tensor is not None and not is_uninitialized(tensor)
    ]
    for tensor, _ in held:
        tensor.__dict__["materialize"] = partial(_expect, tensor)

    def release() -> None:
        with torch.no_grad():
            for tensor, values in held:
                del tensor.__dict__["materialize"]
                tensor.copy_(values)

    return release


def _expect(tensor: torch.Tensor, shape: Sequence[int], *_: Any, **__: Any) -> None:
    """Stand in for ``UninitializedParameter.materialize`` where there are values already."""
    if tuple(shape) != tuple(tensor.shape):
        raise ValueError(
            f"a parameter that was given values {list(tensor.shape)} should be {list(shape)}"
        )


_OWN_HOOKS = ("_load_hook", "_initialize_hook")


def structure(net: nn.Module) -> Reading:
    """The structure of ``net``, without the hooks by which its lazy modules wait."""
    reading = read(net)
    waits = {join(path, name) for path, module in reading.modules for name in _OWN_HOOKS}
    lazy = {path for path, module in reading.modules if is_lazy(module)}
    reading.facts = [
        fact
        for fact in reading.facts
        if fact.path not in waits
        and not (fact.path in lazy and fact.name == "_load_state_dict_pre_hooks")
    ]
    return reading


def reset_method(module: nn.Module) -> Callable[[], object] | None:
    """The method by which ``module`` draws its parameters again, if it has one."""
    for name in ("reset_parameters", "_reset_parameters"):
        method = getattr(module, name, None)
        if callable(method):
            found: Callable[[], object] = method
            return found
    return None
