"""What a step of one plain network computes, as a function of tensors.

Contract: as ``program.Program`` has it for a Stack. Draws come from torch's own generator, in the
order in which the network makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from chimera.engine.program import Uncapturable, silent
from chimera.paths.hooks import has_hooks, hooks_of_all, is_hooked
from chimera.stack.each import Arguments

Call = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Any]


class Network:
    """One kind of call of a plain module.

    Args:
        module: the network.
        call: gives its loss, or its output.
        given: the arguments; others of the same shapes may stand for them.

    Attributes:
        trained: places, among ``tensors()``, of what gets a gradient.
        buffers: places of the buffers.
        shape: of the loss.

    Raises:
        Uncapturable: the module has hooks.
    """

    shape: tuple[int, ...] = ()

    def __init__(self, module: nn.Module, call: Call, given: Arguments) -> None:
        self._module, self._call, self._given = module, call, given
        if hooks_of_all():
            raise Uncapturable("hooks of all modules are Python")
        for path, part in module.named_modules():
            if is_hooked(part):
                raise Uncapturable(f"hooks ({path or 'the module itself'}) are Python")
        self._names = [name for name, _ in named(module)]
        tensors = self.tensors()
        if list(map(id, tensors)) != [id(tensor) for _, tensor in named(module)]:
            raise Uncapturable("a module names other parameters than torch does")
        for name, tensor in zip(self._names, tensors, strict=True):
            if has_hooks(tensor):
                raise Uncapturable(f"hooks ({name}) are Python")
        self.trained = [i for i, tensor in enumerate(tensors) if tensor.requires_grad]
        self.buffers = [i for i, t in enumerate(tensors) if not isinstance(t, nn.Parameter)]

    def tensors(self) -> list[Tensor]:
        """The parameters and buffers, each once."""
        return standing(self._module)[0]

    def moving(self, given: Arguments) -> list[Tensor]:
        """The tensors among the arguments."""
        return [leaf for leaf in given.leaves if isinstance(leaf, Tensor)]

    def outputs(self, tensors: Sequence[Tensor], moving: Sequence[Tensor], step: Tensor) -> Any:
        """What the call gives.

        Args:
            tensors: to stand for ``tensors()``; buffers among them are changed in place.
            moving: to stand for ``moving(given)``.
            step: says nothing here.

        Raises:
            Uncapturable: the network prints.
        """
        arguments = iter(moving)
        leaves = [next(arguments) if isinstance(x, Tensor) else x for x in self._given.leaves]
        inputs, options = self._given.rebuild(leaves)
        stand = dict(zip(self._names, tensors, strict=True))
        holder = _Called(self._module, self._call)
        with silent():
            return functional_call(
                holder, {f"module.{name}": t for name, t in stand.items()}, (inputs, options)
            )


class _Called(nn.Module):
    """A call of a module as a module, whose tensors ``functional_call`` can replace."""

    def __init__(self, module: nn.Module, call: Call) -> None:
        super().__init__()
        self.module, self._call = module, call

    def forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """``call(module, args, kwargs)``."""
        return self._call(self.module, args, kwargs)


def named(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers by name, each once."""
    return [*module.named_parameters(), *module.named_buffers()]


def standing(module: nn.Module) -> tuple[list[Tensor], tuple[bool, ...]]:
    """The tensors of ``named``, and which modules are in training mode.

    In one walk: the public ones, a generator a level, take longer than the step of a network of
    many small modules.
    """
    parts: dict[nn.Module, None] = {}
    left: list[nn.Module | None] = [module]
    while left:
        part = left.pop()
        if part is not None and part not in parts:
            parts[part] = None
            left.extend(reversed(part._modules.values()))
    held: list[Tensor] = [t for part in parts for t in part._parameters.values() if t is not None]
    held += [t for part in parts for t in part._buffers.values() if t is not None]
    return list(dict.fromkeys(held)), tuple([part.training for part in parts])
