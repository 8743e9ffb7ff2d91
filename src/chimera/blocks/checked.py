"""Arguments of blocks, checked when a block is made.

Contract: a mistake is a TypeError or a ValueError that names the block, the argument, what came and
the mend.
"""

from typing import Any

from torch import Tensor, nn

_WITHOUT_FORWARD = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def checked(kind: str, what: str, value: Any) -> nn.Module:
    """``value``, which must be a module that can be called.

    Raises:
        TypeError: it is something else; ``kind`` and ``what`` name the argument.
    """
    if isinstance(value, _WITHOUT_FORWARD):
        raise TypeError(
            f"{kind}: {what} is {described(value)}, which has no forward; "
            "pass the modules in it one by one."
        )
    if isinstance(value, nn.Module):
        return value
    if isinstance(value, type) and issubclass(value, nn.Module):
        raise TypeError(f"{kind}: {what} is the class {_name(value)}; {instance_of(value)}.")
    mend = "wrap it in a module's forward" if callable(value) else "a child is a torch.nn.Module"
    raise TypeError(f"{kind}: {what} is {described(value)}, not a module; {mend}.")


def checked_step(kind: str, what: str, value: Any) -> Any:
    """``value``, which must be a module or a function.

    Raises:
        TypeError: it is a class of modules, a method of a module, or cannot be called.
    """
    owner = getattr(value, "__self__", None)
    if isinstance(owner, nn.Module):
        raise TypeError(
            f"{kind}: {what} is {value.__name__!r}, a method of a {type(owner).__name__}, whose "
            "parameters would be lost; pass the module itself."
        )
    if isinstance(value, nn.Module) or (isinstance(value, type) and issubclass(value, nn.Module)):
        return checked(kind, what, value)
    if not callable(value):
        raise TypeError(f"{kind}: {what} is {described(value)}; pass a module or a function.")
    return value


def checked_count(kind: str, what: str, value: Any) -> int:
    """``value``, which must be an int of 1 or more.

    Raises:
        TypeError: no int.
        ValueError: below 1.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{kind}: {what} is an int; got {described(value)}.")
    if value < 1:
        raise ValueError(f"{kind}: {what} is 1 or more; got {value}.")
    return value


def instance_of(kind: type) -> str:
    """The mend for a class that stands where an instance belongs."""
    return f"pass {_name(kind)}(), an instance"


def described(value: Any) -> str:
    """What came, in a few words."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {_name(value)}"
    if isinstance(value, str | int | float | bool):
        return f"{value!r} ({type(value).__name__})"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__!r}"
    article = "an" if type(value).__name__[0] in "aeiouAEIOU" else "a"
    return f"{article} {type(value).__name__}"


def _name(kind: type) -> str:
    return f"nn.{kind.__name__}" if kind.__module__.startswith("torch.nn.") else kind.__name__


def one_element(kind: str, answer: Any) -> Tensor:
    """What a condition of a ``kind`` of block gave, a tensor of one element.

    Raises:
        TypeError: it is no tensor.
        ValueError: it is a tensor of several elements, or none.
    """
    if not isinstance(answer, Tensor):
        raise TypeError(
            f"{kind}: condition gave {described(answer)}; it gives a bool or a one-element tensor."
        )
    if answer.numel() != 1:
        raise ValueError(
            f"{kind}: condition gave a tensor of shape {tuple(answer.shape)}; it gives one "
            "element: use .any() or .all()."
        )
    return answer
