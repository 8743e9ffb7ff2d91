"""What a module is called with: positional and keyword inputs, nested as the module takes them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from chimera.paths.nest import flatten, map_leaves


@dataclass(frozen=True)
class Inputs:
    """The arguments of one call of a module: ``module(*args, **kwargs)``."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def map(self, function: Callable[[Any], Any]) -> "Inputs":
        """The same inputs with every leaf replaced by ``function(leaf)``."""
        return Inputs(map_leaves(function, self.args), map_leaves(function, self.kwargs))

    def leaves(self) -> Iterator[Any]:
        """Every leaf, positional inputs first."""
        yield from flatten((self.args, self.kwargs))[0]

    def __str__(self) -> str:
        named = [f"{name}={value!r}" for name, value in self.kwargs.items()]
        return f"inputs({', '.join([*map(repr, self.args), *named])})"


def inputs(*args: Any, **kwargs: Any) -> Inputs:
    """Several inputs of a module, positional and by keyword.

    Each may be a ``ch.spec``, a tensor, a nest of them (tuple, list, dict, dataclass), or any
    other value, which is passed on as it is.
    """
    return Inputs(args, kwargs)


def as_inputs(value: Any) -> Inputs:
    """An ``Inputs`` as it is; anything else becomes the single positional input."""
    return value if isinstance(value, Inputs) else Inputs((value,))


def as_specified(value: Any, argument: str = "spec") -> Inputs:
    """``as_inputs`` for an argument that must describe inputs.

    Raises:
        TypeError: for what cannot be meant as an input, such as a bare shape.
    """
    if isinstance(value, Inputs):
        return value
    if value is None or isinstance(value, (int, float, str)):
        raise TypeError(
            f"{argument} must be ch.spec(...), ch.inputs(...) or tensors; got {value!r}"
            + (f"; write ch.spec({value!r})" if type(value) in (int, str) else "")
        )
    if isinstance(value, (tuple, list)) and all(type(item) in (int, str) for item in value):
        shape = ", ".join(map(repr, value))
        raise TypeError(
            f"{argument} must be ch.spec(...), ch.inputs(...) or tensors; got {value!r}, "
            f"a bare shape; write ch.spec({shape})"
        )
    return Inputs((value,))
