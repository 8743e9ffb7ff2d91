"""What a module's forward takes, where it cannot be called with what came: for notes on errors."""

import inspect
from typing import Any

from torch import nn

from chimera.paths.wants import Want

_NONE = inspect.Parameter.empty
_POSITIONAL = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
_VARIABLE = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD


def unbound(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Want | None:
    """The inputs of ``module.forward`` and the mend; None where what came can be bound to them."""
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        return Want(f"forward{_bare(signature)}", _mend(signature, args, kwargs) or str(error))
    return None


def _bare(signature: inspect.Signature) -> inspect.Signature:
    """Without annotations."""
    bare = [one.replace(annotation=_NONE) for one in signature.parameters.values()]
    return signature.replace(parameters=bare, return_annotation=_NONE)


def _mend(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Any) -> str | None:
    known = signature.parameters
    came = f"{len(args) + len(kwargs)} came"
    try:
        bound = signature.bind_partial(*args, **kwargs).arguments
    except TypeError:
        unknown = [repr(name) for name in kwargs if name not in known]
        if unknown:
            return f"call it without {', '.join(unknown)}"
        takes = sum(one.kind in _POSITIONAL for one in known.values())
        return f"give it {takes} by position; {came}" if len(args) > takes else None
    if len(args) == 1 and not kwargs and isinstance(args[0], tuple):
        return "a tuple came as one value; unpack it, as ch.Sequential(..., splat=True) does"
    missing = [
        repr(name)
        for name, one in known.items()
        if name not in bound and one.default is _NONE and one.kind not in _VARIABLE
    ]
    return f"give it {' and '.join(missing)} too; {came}"
