"""Sees where a module asks a tensor for a Python value: ``if x.sum() > 0``, ``x.item()``, ...

The mode hands the tensor to a function and gives the module what that function answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from chimera.decide.transforms import is_batched_inside, is_inside, level

CONVERSIONS: dict[Any, str] = {
    Tensor.__bool__: "bool",
    Tensor.__int__: "int",
    Tensor.__float__: "float",
    Tensor.__complex__: "complex",
    Tensor.__index__: "index",
    Tensor.item: "item",
    Tensor.tolist: "tolist",
    Tensor.requires_grad.__get__: "requires_grad",  # type: ignore[attr-defined]
    torch.is_nonzero: "bool",
    Tensor.is_nonzero: "bool",
}

_CONVERT: dict[str, Callable[[Any], Any]] = {
    "bool": bool,
    "int": int,
    "float": float,
    "complex": complex,
    "index": int,
    "item": lambda value: value,
    "tolist": lambda value: value,
}


def convert(value: Any, conversion: str) -> Any:
    """A Python number as the conversion of that name gives it."""
    return _CONVERT[conversion](value)


Wrong = Callable[[Any, tuple[Any, ...], dict[str, Any]], bool]
"""Of a function and its arguments, whether torch batches the call wrongly without an error."""

_SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]

# What a batched tensor answers for itself, not for the members' tensors.
_UNANSWERABLE: dict[Any, str] = {
    **{getattr(Tensor, name).__get__: name for name in ("grad_fn", "is_leaf", "grad", "_base")},
    **{getattr(Tensor, name): name for name in ("register_hook", "retain_grad", "_is_view")},
    Tensor.__repr__: "text",
    Tensor.requires_grad.__set__: "requires_grad",  # type: ignore[attr-defined]
    _SET_DATA: "data",
}


def _says_nothing(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether a tensor is only put in its own place, as ``module.to`` does where it stays."""
    return func is _SET_DATA and args[1] is args[0]


class Asked(Exception):
    """A module asked a tensor for something that a batched tensor answers wrongly."""


def _asked(name: str) -> Asked:
    if name == "data":
        return Asked("the module gives a tensor's .data other memory")
    return Asked(f"the module asks a tensor for its {name}")


class Sentinel(TorchFunctionMode):
    """Refuses the questions that batched tensors answer wrongly without an error.

    A tensor inside vmap says that it requires no gradient, whatever the members' say; and autocast
    that the module switches on does not act on it as it should. Made outside of the ``vmap`` that
    runs the members; tensors of transforms that the module calls itself answer as they do alone.

    Args:
        device: the kind of device that the members are on.
        goes_wrong: whether torch batches a function wrongly with these arguments; none where not
            given.

    Attributes:
        refused: what was raised. The module may have caught it: then the run does not count.
    """

    def __init__(self, device: str = "cpu", goes_wrong: Wrong | None = None) -> None:
        super().__init__()
        self._goes_wrong = goes_wrong
        self.refused: Exception | None = None
        self._members = level() + 1
        self._device = device if torch.amp.is_autocast_available(device) else "cpu"
        self._autocast = torch.is_autocast_enabled(self._device)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if torch.is_autocast_enabled(self._device) and not self._autocast:
            self.refused = Asked("the module switches autocast on")
            raise self.refused
        conversion = CONVERSIONS.get(func) or _UNANSWERABLE.get(func)
        if conversion is None or _says_nothing(func, args):
            if self._goes_wrong is not None and self._goes_wrong(func, args, kwargs or {}):
                self.refused = Asked(f"torch.vmap computes {func.__name__} wrongly")
                raise self.refused
            return func(*args, **(kwargs or {}))
        if conversion == "requires_grad" and is_inside(args[0], self._members):
            return func(*args, **(kwargs or {}))
        if conversion == "requires_grad" or func in _UNANSWERABLE:
            self.refused = _asked(conversion)
            raise self.refused
        try:
            return func(*args, **(kwargs or {}))
        except RuntimeError as error:
            self.refused = error
            raise


class Watch(TorchFunctionMode):
    """Lets ``answer(tensor, conversion)`` say what the tensor's value is.

    Made outside of the ``vmap`` that runs the members. Tensors of transforms that the module calls
    itself answer as they do alone.

    Args:
        answer: gives the value.
        replacements: functions of torch, and what runs in their place.
        goes_wrong: as of ``Sentinel``; what is replaced does not.

    Attributes:
        replaced: how often a replacement ran.
        mended: whether one ran that torch would have computed wrongly.
        refused: what was raised. The module may have caught it: then the run does not count.
    """

    def __init__(
        self,
        answer: Callable[[Tensor, str], Any],
        replacements: Mapping[Any, Callable[..., Any]] | None = None,
        goes_wrong: Wrong | None = None,
    ) -> None:
        super().__init__()
        self._goes_wrong = goes_wrong
        self._answer = answer
        self._members = level() + 1
        self._replacements = replacements or {}
        self.replaced = 0
        self.mended = False
        self.refused: Exception | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        conversion = CONVERSIONS.get(func)
        if conversion is not None and args and isinstance(args[0], Tensor):
            within = is_inside if conversion == "requires_grad" else is_batched_inside
            if within(args[0], self._members):
                return func(*args, **(kwargs or {}))
            return self._answer(args[0], conversion)
        if func in _UNANSWERABLE and not _says_nothing(func, args):
            self.refused = _asked(_UNANSWERABLE[func])
            raise self.refused
        replacement = self._replacements.get(func)
        wrong = self._goes_wrong is not None and self._goes_wrong(func, args, kwargs or {})
        if replacement is None:
            if wrong:
                self.refused = Asked(f"torch.vmap computes {func.__name__} wrongly")
                raise self.refused
            return func(*args, **(kwargs or {}))
        self.replaced += 1
        self.mended |= wrong
        return replacement(*args, **(kwargs or {}))
