"""Sequential: modules in a chain, each taking what the one before gave.

Contract: no state of its own; the ``state_dict`` is the children's, in order. The same module twice
runs twice. Children given by position are named by their positions, and stay so through ``append``,
``insert`` and ``del``; children given as a dict keep their names.
"""

from collections.abc import Iterable, Iterator
from typing import Any, overload

from torch import nn

from chimera.blocks.checked import checked
from chimera.blocks.children import add, children, given, names, replace


class Sequential(nn.Module):
    """A chain of modules.

    The inputs, positional and by keyword, go to the first module; every other one takes what the
    one before it gave. An empty chain gives its one input back.

    Args:
        *modules: modules by position, or one dict of named modules, in its order. A module may
            stand several times: it runs each time, with the same parameters.
        splat: whether a tuple is unpacked into the positional arguments of the module that takes
            it. Unless told, a tuple goes on as one value.

    Raises:
        TypeError: something is no module: a class where an instance belongs, a function, a list.
        ValueError: a name is empty, has a dot or is an attribute of the block.
    """

    splat: bool

    def __init__(self, *modules: Any, splat: bool = False) -> None:
        super().__init__()
        self.splat = splat
        replace(self, given(type(self).__name__, "child", modules))

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the last module gives."""
        chain = children(self)
        if not chain:
            if len(inputs) != 1 or named:
                raise TypeError(
                    f"An empty {type(self).__name__} takes one input and gives it back; "
                    f"got {len(inputs)} and the keywords {sorted(named)}."
                )
            return inputs[0]
        if len(inputs) == 1:
            inputs = self._arguments(inputs[0])
        value = chain[0](*inputs, **named)
        for module in chain[1:]:
            value = module(*self._arguments(value))
        return value

    def _arguments(self, value: Any) -> tuple[Any, ...]:
        return value if self.splat and isinstance(value, tuple) else (value,)

    def __len__(self) -> int:
        return len(names(self))

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(children(self))

    @overload
    def __getitem__(self, index: int) -> nn.Module: ...
    @overload
    def __getitem__(self, index: slice) -> "Sequential": ...
    def __getitem__(self, index: int | slice) -> "nn.Module | Sequential":
        """The module at a position, or a plain Sequential of the same modules (no copies)."""
        if not isinstance(index, slice):
            return children(self)[self._position(index)]
        part = list(zip(names(self)[index], children(self)[index], strict=True))
        if self._by_position():
            return Sequential(*(module for _, module in part), splat=self.splat)
        return Sequential(dict(part), splat=self.splat)

    def __setitem__(self, index: int, module: nn.Module) -> None:
        """Put ``module`` in the place of the one at a position; the name stays."""
        pairs = self._pairs()
        position = self._position(index)
        pairs[position] = (pairs[position][0], self._new(f"child {position}", module))
        replace(self, pairs)

    def __delitem__(self, index: int | slice) -> None:
        where = index if isinstance(index, slice) else self._position(index)
        by_position, pairs = self._by_position(), self._pairs()
        del pairs[where]
        replace(self, _numbered(pairs) if by_position else pairs)

    def append(self, module: nn.Module, name: str | None = None) -> "Sequential":
        """Add ``module`` last; a chain whose modules have names needs its ``name``."""
        return self.insert(len(self), module, name)

    def extend(self, modules: "Iterable[nn.Module] | dict[str, nn.Module]") -> "Sequential":
        """Add several modules last, in order; a dict for a chain whose modules have names."""
        new = list(modules.items()) if isinstance(modules, dict) else [(None, m) for m in modules]
        for name, module in new:
            self.append(module, name)
        return self

    def insert(self, index: int, module: nn.Module, name: str | None = None) -> "Sequential":
        """Put ``module`` before the one at position ``index``, as ``list.insert`` does.

        Raises:
            TypeError: ``module`` is no module, or ``index`` no int.
            ValueError: the chain has names and none was given, or it has none and one was; the
                name is there already; ``module`` contains this chain.
        """
        kind, pairs = type(self).__name__, self._pairs()
        if not isinstance(index, int):
            raise TypeError(f"{kind}: a position is an int; got {index!r}.")
        if self._by_position() and not (name is not None and not pairs):
            if name is not None:
                raise ValueError(
                    f"{kind}: its modules are named by position; insert {name!r} without a name."
                )
            pairs.insert(index, ("", self._new("the module", module)))
            replace(self, _numbered(pairs))
            return self
        if name is None:
            raise ValueError(f"{kind}: its modules have names; give name= too.")
        add(self, name, self._new(f"child {name!r}", module))
        pairs.insert(index, (name, module))
        replace(self, pairs)
        return self

    def _new(self, what: str, module: Any) -> nn.Module:
        new = checked(type(self).__name__, what, module)
        if any(inner is self for inner in new.modules()):
            raise ValueError(f"{type(self).__name__}: {what} contains this chain itself.")
        return new

    def _position(self, index: Any) -> int:
        size = len(self)
        if not isinstance(index, int):
            raise TypeError(
                f"{type(self).__name__}: a position is an int; got {index!r}. A module with a name "
                "is an attribute."
            )
        if not -size <= index < size:
            raise IndexError(
                f"{type(self).__name__}: no module at position {index}; there are {size}."
            )
        return int(index % size)

    def _pairs(self) -> list[tuple[str, nn.Module]]:
        return list(zip(names(self), children(self), strict=True))

    def _by_position(self) -> bool:
        return names(self) == [str(i) for i in range(len(self))]

    def extra_repr(self) -> str:
        return "splat=True" if self.splat else ""


def _numbered(pairs: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    return [(str(i), module) for i, (_, module) in enumerate(pairs)]
