"""Notes on errors: which module of a tree was running, on what, and what it wanted."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from chimera.paths.beside import misfit_beside
from chimera.paths.binding import unbound
from chimera.paths.losses import loss_wants, module_misfit, raised_in_loss
from chimera.paths.misfits import misfit
from chimera.paths.raised import Arguments, Raised, raised
from chimera.paths.wants import Want, name_of, want

_MARK = "in the module at "
_POINTED = "_chimera_pointed"
_LONG = 100

Origin = Callable[[torch.Tensor], str | None]
"""The path of the module that made a tensor, or None."""


@dataclass(frozen=True)
class _Pointed:
    """The note that an error has.

    Attributes:
        root: where ``path`` starts; None for a stack of which nothing above is known.
        inside: in a stack, the path in the member, and which member.
        path: of the module, or of the stack.
        text: what follows.
    """

    root: nn.Module | None
    inside: str
    path: str
    text: str

    def __str__(self) -> str:
        if not self.inside:
            return f"{_MARK}{self.path or '(root)'}: {self.text}"
        stack = f"the stack at {self.path}" if self.path else "the stack"
        return f"{_MARK}{self.inside} of {stack}: {self.text}"


def point(
    error: BaseException, root: nn.Module, origin: Origin | None = None, member: str | None = None
) -> None:
    """Add a note to ``error`` that names the module of ``root`` in which it was raised.

    The note tells the path, the module, the inputs it was called with, what it wanted of them,
    which module made them (where ``origin`` tells), and the mend, as far as they are known; of a
    loss of ``torch.nn.functional`` outside of ``root`` what it was given. Another error that no
    module of ``root`` was running for, or that has such a note, stays as it is; the note of a
    stack's member learns where in ``root`` the stack is.

    Args:
        error: what was raised.
        root: where paths start.
        origin: who made a tensor.
        member: ``member 3``, if ``root`` is that of a stack.
    """
    if is_pointed(error):
        _tell_stack(error, root)
        return
    found = raised(error, root)
    if found is not None:
        point_at(error, root, found, found, origin, member)
        return
    said = raised_in_loss(error)
    if said is not None:
        said = f"in {said}" if member is None else f"raised by {member} of the stack, in {said}"
    elif member is not None:
        said = f"raised by {member} of the stack"
    if said is not None and said not in getattr(error, "__notes__", ()):
        error.add_note(said)


def is_pointed(error: BaseException) -> bool:
    """Whether ``error`` has a note from here."""
    return hasattr(error, _POINTED)


def is_pointed_below(error: BaseException, root: nn.Module) -> bool:
    """Whether the note of ``error`` starts its path at a module inside ``root``."""
    known: _Pointed | None = getattr(error, _POINTED, None)
    if known is None or known.root is None or known.root is root:
        return False
    return known.root in set(root.modules())


def tell(error: BaseException, line: str) -> None:
    """Add a line to the note of ``error``, before its mend."""
    known: _Pointed | None = getattr(error, _POINTED, None)
    if known is None:
        error.add_note(line)
        return
    text, mend, last = known.text.partition("\n  mend: ")
    _renote(error, known, replace(known, text=f"{text}\n  {line}{mend}{last}"))


def unpoint(error: BaseException) -> None:
    """Take the note of ``error`` away, for a better one."""
    error.__notes__.remove(str(getattr(error, _POINTED)))
    delattr(error, _POINTED)


def point_at(
    error: BaseException,
    root: nn.Module,
    found: Raised,
    seen: Raised,
    origin: Origin | None,
    member: str | None = None,
) -> None:
    """Add the note for ``found``; ``seen`` is it, or the same in a run that was looked at."""
    text = described(error, found, seen, origin)
    if member is None:
        pointed = _Pointed(root, "", found.path, text)
    else:
        inside = f"{found.path or '(root)'} of {member}"
        pointed = _Pointed(None, inside, "", text)
    error.add_note(str(pointed))
    setattr(error, _POINTED, pointed)


def _tell_stack(error: BaseException, root: nn.Module) -> None:
    """Let the note of a stack's member say where in ``root`` the stack is."""
    known: _Pointed = getattr(error, _POINTED)
    found = raised(error, root)
    if known.root is not None or found is None:
        return
    _renote(error, known, replace(known, root=root, path=found.path))


def _renote(error: BaseException, known: _Pointed, told: _Pointed) -> None:
    """Put one note in the place of another."""
    notes = error.__notes__
    notes[notes.index(str(known))] = str(told)
    setattr(error, _POINTED, told)


def described(error: BaseException, found: Raised, seen: Raised, origin: Origin | None) -> str:
    """The note of ``point``, without the path."""
    module, call = found.module, found.call
    wanted = None if call is None else _want(error, module, call)
    lines = [one_line(module)]
    if call is not None:
        lines.append(_said("came:", _listed(seen.call or call, origin, wanted)))
    if wanted is not None:
        lines.append(f"  wanted: {wanted.text}")
    mend = None if wanted is None else wanted.mend
    if wanted is None and seen.operation is not None:
        function, given = seen.operation
        told = _listed(_worth_telling(function, given), origin)
        lines.append(_said(f"operation: {_name(function)} of", told))
        mend = misfit(_name(function), *given)
    if found.line is not None:
        lines.append(f"  line: {found.line}")
    if mend is not None:
        lines.append(f"  mend: {mend}")
    return "\n".join(lines)


def _said(what: str, values: str) -> str:
    """On one line, or each value on its own."""
    return f"  {what}{values}" if values.startswith("\n") else f"  {what} {values}"


def _want(error: BaseException, module: nn.Module, call: Arguments) -> Want | None:
    args, kwargs = call
    if isinstance(error, TypeError):
        wanted = unbound(module, args, kwargs)
        if wanted is not None:
            return wanted
    given = (*args, *kwargs.values())
    tensors = [value for value in given if isinstance(value, torch.Tensor)]
    said = loss_wants(module)
    if said is not None:
        mend = module_misfit(module, tensors[0], tensors[1]) if len(tensors) > 1 else None
        return Want(said, mend)
    found = want(module, given)
    if found is not None and found.mend is None:
        return replace(found, mend=misfit_beside(module, args, kwargs))
    return found


def one_line(module: nn.Module) -> str:
    """The module's class and own settings on one line, without its children."""
    try:
        settings = " ".join(module.extra_repr().split())
    except Exception:  # noqa: BLE001 - a user's method, asked while an error is told
        settings = "..."
    if not settings and module._modules:
        settings = "..."
    text = f"{type(module).__name__}({settings})"
    return text if len(text) <= _LONG else text[: _LONG - 4] + "...)"


def shown(value: Any) -> str:
    """A value on one line: tensors by dtype and shape."""
    if isinstance(value, torch.Tensor):
        if isinstance(value, (nn.UninitializedParameter, nn.UninitializedBuffer)):
            return "uninitialized"
        return f"{name_of(value.dtype)} {list(value.shape)}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {shown(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        text = ", ".join(shown(item) for item in value)
        return f"[{text}]" if isinstance(value, list) else f"({text})"
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONG else text[: _LONG - 3] + "..."


def _listed(given: Arguments, origin: Origin | None, wanted: Want | None = None) -> str:
    args, kwargs = given
    placed = wanted is not None and wanted.device is not None

    def one(value: Any) -> str:
        if isinstance(value, (tuple, list)) and any(isinstance(v, torch.Tensor) for v in value):
            text = ", ".join(map(one, value))
            return f"[{text}]" if isinstance(value, list) else f"({text})"
        text = shown(value)
        if not isinstance(value, torch.Tensor):
            return text
        if placed:
            text += f" on {value.device}"
        maker = None if origin is None else origin(value)
        return text if maker is None else f"{text} from {maker}"

    parts = [*map(one, args), *(f"{name}={one(value)}" for name, value in kwargs.items())]
    text = ", ".join(parts) or "no input"
    if len(text) <= _LONG or len(parts) == 1:
        return text
    return "".join(f"\n    {part}" for part in parts)


def _worth_telling(function: Any, given: Arguments) -> Arguments:
    """Arguments without the keywords that stand at their defaults."""
    args, kwargs = given
    try:
        known = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return given
    defaults = {name: one.default for name, one in known.items()}
    return args, {
        name: value
        for name, value in kwargs.items()
        if isinstance(value, torch.Tensor) or name not in defaults or value != defaults[name]
    }


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__)).strip("_")
