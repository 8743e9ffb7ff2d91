"""Repeat: n instances of one factory in a chain, or one instance n times.

Contract: no state of its own. Unless shared, every instance is fresh: no two are one module.
"""

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from chimera.blocks.checked import checked, checked_count, described
from chimera.blocks.children import children, replace
from chimera.paths.arguments import as_flag


class Repeat(nn.Module):
    """``n`` instances of a factory in a chain, each taking what the one before gave.

    Args:
        factory: a class of modules, or a function that makes a module; with ``share=True`` an
            instance will do.
        n: how many turns, 1 or more.
        *args, **kwargs: the factory's arguments. One named ``share`` needs a ``lambda``.
        share: whether one instance runs ``n`` times instead.

    Further inputs of ``forward(x, *more, **named)`` go to every instance (a mask, say). Children
    are named by their positions; a shared instance is one child, "0".

    Raises:
        TypeError: an instance where a factory belongs, a factory that makes no module; ``share`` is
            no bool.
        ValueError: ``n`` is below 1; the factory gave one module twice.
    """

    n: int
    share: bool

    def __init__(
        self,
        factory: Callable[..., nn.Module] | nn.Module,
        n: int,
        /,
        *args: Any,
        share: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.n, self.share = checked_count("Repeat", "n", n), as_flag("Repeat: share", share)
        made = _made(factory, 1 if self.share else n, self.share, args, kwargs)
        replace(self, ((str(i), module) for i, module in enumerate(made)))

    def forward(self, x: Any, *more: Any, **named: Any) -> Any:
        """What the last instance gives."""
        for module in self:
            x = module(x, *more, **named)
        return x

    def __len__(self) -> int:
        """The number of turns."""
        return self.n

    def __iter__(self) -> Iterator[nn.Module]:
        """The modules in the order in which they run."""
        made = children(self)
        return iter(made * self.n if self.share else made)

    def __getitem__(self, index: int) -> nn.Module:
        return list(self)[index]

    def extra_repr(self) -> str:
        return f"{self.n} times, shared" if self.share else ""


def _made(
    factory: Any, n: int, share: bool, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[nn.Module]:
    if isinstance(factory, nn.Module):
        kind = type(factory).__name__
        if not share:
            raise TypeError(
                f"Repeat: factory is an instance of {kind}; pass a class or a function that makes "
                f"a new one ({kind} and its arguments, or a lambda), or share=True to run this "
                "one each time."
            )
        if args or kwargs:
            raise TypeError(
                f"Repeat: an instance of {kind} takes no arguments; pass the class to make one."
            )
        return [checked("Repeat", "factory", factory)]
    if not callable(factory):
        raise TypeError(
            f"Repeat: factory is {described(factory)}; pass a class of modules or a function."
        )
    made = [checked("Repeat", "what factory gave", factory(*args, **kwargs)) for _ in range(n)]
    if len({id(module) for module in made}) < n:
        raise ValueError(
            "Repeat: factory gave one module twice, which ties the parameters; make a new one in "
            "each call, or pass share=True."
        )
    return made
