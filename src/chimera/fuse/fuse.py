"""``fuse`` and ``unfuse``: every ``Parallel`` of a network as stacks, and back.

Contract: a copy comes back; its ``state_dict`` has the same keys in the same order, and the same
values. What a fused block holds are the branches themselves.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from chimera.blocks import Parallel
from chimera.build.shapes import shapes
from chimera.fuse.block import Fused
from chimera.fuse.choice import WAYS
from chimera.paths.walk import every_path


def fuse(net: nn.Module, spec: Any = None, decide: str = "model") -> nn.Module:
    """A copy of ``net`` in which the branches of every ``Parallel`` run as one where that wins.

    Branches of one structure run as one stack: the products of a layer in all branches are one
    batched product, their convolutions one convolution in groups, and so on; branches of any other
    kind run under ``torch.vmap``. What cannot run as one, or would lose by it, runs one by one;
    ``ch.explain`` says which and why. Parameters, buffers and ``state_dict`` keep their names,
    order and values; outputs and gradients are those of ``net``. Random numbers are drawn from
    torch's generator as ``net`` draws them.

    Args:
        net: a built network.
        spec: of its input, as ``ch.build`` takes it; the shapes are then checked at once.
        decide: "model" decides by a rule on the shapes whether running as one wins; "measure"
            times both ways on the first call of a kind, forward and backward.

    Raises:
        TypeError: ``net`` is no module.
        ValueError: ``decide`` is another word; ``net`` holds uninitialized parameters.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a module, got {net!r:.60}")
    if decide not in WAYS:
        raise ValueError(f"decide must be 'model' or 'measure', got {decide!r}")
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(
                f"{name} is uninitialized; build the network first: ch.build(net, ch.spec(...))"
            )
    if spec is not None:
        shapes(net, spec)
    return _fused(copy.deepcopy(net), decide, {})


def _fused(module: nn.Module, decide: str, made: dict[int, nn.Module]) -> nn.Module:
    """``module`` or its fused form, with fused blocks below it; one that stands twice once."""
    if id(module) in made:
        return made[id(module)]
    made[id(module)] = module
    inside: set[int] = set()
    if _is_plain_parallel(module):
        assert isinstance(module, Parallel)
        block = made[id(module)] = Fused(module, decide)
        inside = {id(branch) for branch in block.as_one()}
        module = block
    for name, child in _children(module):
        # Branches that run as one stay as they are: what they hold runs inside.
        if id(child) not in inside:
            new = _fused(child, decide, made)
            if new is not child:
                setattr(module, name, new)
    return module


def _children(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(path, child) for path, child in every_path(module) if path and "." not in path]


def unfuse(net: nn.Module) -> nn.Module:
    """A plain copy of a network that ``fuse`` made, with its parameters and buffers as they are.

    Raises:
        TypeError: ``net`` is no module.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a module, got {net!r:.60}")
    return _plain(copy.deepcopy(net), {})


def _plain(module: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    if id(module) in made:
        return made[id(module)]
    new = made[id(module)] = module.plain() if isinstance(module, Fused) else module
    for name, child in _children(new):
        plain = _plain(child, made)
        if plain is not child:
            setattr(new, name, plain)
    return new


def _is_plain_parallel(module: nn.Module) -> bool:
    """Whether a block runs as ``Parallel`` does: a subclass may add a constructor alone."""
    kind = type(module)
    if not issubclass(kind, Parallel) or issubclass(kind, Fused) or "forward" in vars(module):
        return False
    added = {name for base in kind.__mro__[: kind.__mro__.index(Parallel)] for name in vars(base)}
    return not any(hasattr(Parallel, name) and name not in _HARMLESS for name in added)


_HARMLESS = {
    *("__init__", "__doc__", "__module__", "__annotations__", "__dict__", "__weakref__"),
    *("__static_attributes__", "__firstlineno__", "__annotate_func__", "__parameters__"),
}
