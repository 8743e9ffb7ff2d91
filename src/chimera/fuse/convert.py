"""``to_parallel``: branches written by hand become ``ch.Parallel``, with unchanged names.

Contract: a copy comes back whose ``state_dict`` has the same keys in the same order and the same
values, and which was seen to compute the same, to the bit, on an example.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chimera.blocks import Parallel, Sequential
from chimera.build.inputs import Inputs, as_inputs
from chimera.build.spec import Spec
from chimera.fuse.by_hand import ByHand, NotExactly, by_hand, joins_by_hand
from chimera.paths.nest import flatten, map_leaves
from chimera.paths.notice import ChimeraWarning
from chimera.paths.walk import every_path

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def to_parallel(net: nn.Module, example: Any, paths: Sequence[str] | None = None) -> nn.Module:
    """A copy of ``net`` in which branches written by hand are a ``ch.Parallel``.

    Converted is a module whose forward is exactly that: one input goes to each of several
    children, and what they give is joined by ``torch.cat`` or ``torch.stack``, as in
    ``torch.cat([b(x) for b in self.branches], 1)`` or in torchvision's GoogLeNet. The keys of the
    ``state_dict``, their order and values stay. Both networks run on ``example``, in evaluation and
    in training mode, and must give the same numbers.

    Args:
        net: a built network.
        example: a tensor, or ``ch.inputs(...)`` of several, that ``net`` runs on.
        paths: of the modules to convert; without it, every one that can be. One that joins
            outputs in another way is then left as it is, which a ``ch.ChimeraWarning`` says.

    Raises:
        TypeError: ``net`` is no module; ``example`` holds a specification or no tensor.
        ValueError: a path is none of ``net``, or its forward is not exactly that; there is nothing
            to convert; a converted network computes something else. The message says which and why.
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a module, got {net!r:.60}")
    given = _checked(example)
    modules = dict(every_path(net))
    found, refused = _found(modules, paths)
    if not found:
        said = "; ".join(f"{path or '(root)'}: {why}" for path, why in refused.items())
        raise ValueError(f"net has no branches written by hand{': ' if said else ''}{said}")
    made = _converted(copy.deepcopy(net), found)
    _same(net, made, given, sorted(found))
    for path, why in refused.items():
        warnings.warn(f"{path or '(root)'} was not converted: {why}", ChimeraWarning, stacklevel=2)
    return made


def _checked(example: Any) -> Inputs:
    given = as_inputs(example)
    leaves = list(given.leaves())
    if any(isinstance(leaf, Spec) for leaf in leaves):
        raise TypeError("example must be tensors, got a specification; torch.randn(...), say")
    if not any(isinstance(leaf, Tensor) for leaf in leaves):
        raise TypeError(f"example must be a tensor or ch.inputs(...), got {example!r:.60}")
    return given


def _found(
    modules: dict[str, nn.Module], paths: Sequence[str] | None
) -> tuple[dict[str, ByHand], dict[str, str]]:
    """What stands at which path, and why other modules that join outputs are not that."""
    if isinstance(paths, str):
        paths = [paths]
    for path in paths or ():
        if path not in modules:
            raise ValueError(f"paths: net has no module {path!r}")
    found, refused = {}, {}
    for path, module in modules.items():
        if paths is not None and path not in paths:
            continue
        own = not type(module).__module__.startswith(("torch.", "chimera."))
        if paths is None and not (own and joins_by_hand(module)):
            continue
        try:
            if isinstance(module, Parallel):
                raise NotExactly("it is a Parallel already")
            if any(getattr(module, name) for name in _HOOKS):
                raise NotExactly("it has hooks")
            found[path] = by_hand(module)
        except NotExactly as error:
            if paths is not None:
                kind = type(module).__name__
                raise ValueError(f"{path or '(root)'} ({kind}) is not converted: {error}") from None
            refused[path] = str(error)
    return found, refused


def _converted(net: nn.Module, found: dict[str, ByHand]) -> nn.Module:
    """``net`` with blocks at the paths found, the innermost first."""
    made: dict[int, nn.Module] = {}
    for path in sorted(found, key=lambda path: -path.count(".") - bool(path)):
        module = net.get_submodule(path)
        new = made.setdefault(id(module), _block(module, found[path]))
        if not path:
            return new
        above, _, name = path.rpartition(".")
        setattr(net.get_submodule(above), name, new)
    return net


def _block(module: nn.Module, how: ByHand) -> nn.Module:
    """The block in the place of ``module``: a Parallel, below a name where the branches had one."""
    branches = {path: module.get_submodule(path) for path in how.branches}
    above = {path.rpartition(".")[0] for path in branches}
    if len(above) > 1 or any("." in path for path in above):
        raise ValueError(
            f"{type(module).__name__} is not converted: its branches stand in several lists "
            f"({', '.join(sorted(above))}), which one Parallel cannot keep apart by name"
        )
    named = {path.rpartition(".")[2]: branch for path, branch in branches.items()}
    block: nn.Module = Parallel(named, combine=how.combine, dim=how.dim)
    block.training = module.training
    if above != {""}:
        block = Sequential({above.pop(): block})
        block.training = module.training
    return block


def _same(net: nn.Module, made: nn.Module, given: Inputs, paths: list[str]) -> None:
    names = ", ".join(path or "(root)" for path in paths)
    if list(net.state_dict()) != list(made.state_dict()):
        raise ValueError(f"converting {names} would change the keys of the state_dict")
    for training in (False, True):
        ours, theirs = (_outputs(one, given, training) for one in (made, net))
        if len(ours) != len(theirs) or not all(map(_equal, ours, theirs)):
            raise ValueError(
                f"converting {names} changes what net computes on the example; a branch changes "
                "its input in place, or something else of the module is used"
            )


def _outputs(net: nn.Module, given: Inputs, training: bool) -> list[Any]:
    """Outputs and buffers of a copy after one call."""
    one = copy.deepcopy(net).train(training)
    args, kwargs = map_leaves(_copied, (given.args, given.kwargs))
    devices = {p.device for p in one.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
        torch.manual_seed(0)
        outputs = one(*args, **kwargs)
    return [*flatten(outputs)[0], *one.buffers()]


def _copied(leaf: Any) -> Any:
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
    return type(one) is type(other)
