"""Notes on errors: which module of a tree was running, on what, and what it wanted.

Nothing is done before an error: the traceback's frames tell which modules were running.
"""

import os
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import nn

from chimera.paths.walk import first_paths
from chimera.paths.wants import name_of, want

_TORCH = os.path.dirname(torch.__file__) + os.sep
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_MARK = "in the module at "
_LONG = 100

Origin = Callable[[torch.Tensor], str | None]
"""The path of the module that made a tensor, or None."""


def point(error: BaseException, root: nn.Module, origin: Origin | None = None) -> None:
    """Add a note to ``error`` that names the module of ``root`` in which it was raised.

    The note tells the path, the module, the inputs it was called with, what it wanted of them,
    which module made them (where ``origin`` tells), and the mend, as far as they are known. An
    error that no module of ``root`` was running for, or that has such a note, stays as it is.
    """
    if any(note.startswith(_MARK) for note in getattr(error, "__notes__", ())):
        return
    text = described(error, root, origin)
    if text is not None:
        error.add_note(text)


def described(error: BaseException, root: nn.Module, origin: Origin | None = None) -> str | None:
    """The note of ``point``; None where no module of ``root`` was running."""
    paths = {id(module): path for module, path in first_paths(root).items()}
    frames = list(_frames(error.__traceback__))
    module: nn.Module | None = None
    call: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    for frame, _ in frames:
        running = frame.f_locals.get("self")
        if id(running) not in paths or not isinstance(running, nn.Module):
            continue
        if running is not module:
            module, call = running, None
        call = _call(frame) or call
    if module is None:
        return None
    lines = [f"{_MARK}{paths[id(module)] or '(root)'}: {one_line(module)}"]
    args, kwargs = call or ((), {})
    if call is not None:
        lines.append(f"  came: {_came(args, kwargs, origin)}")
    wanted = want(module, (*args, *kwargs.values()))
    if wanted is not None:
        lines.append(f"  wanted: {wanted.text}")
    place = _place(frames)
    if place is not None:
        lines.append(f"  line: {place}")
    if wanted is not None and wanted.mend is not None:
        lines.append(f"  mend: {wanted.mend}")
    return "\n".join(lines)


def one_line(module: nn.Module) -> str:
    """The module's class and own settings on one line, without its children."""
    settings = " ".join(module.extra_repr().split())
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


def _frames(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _call(frame: FrameType) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments of the module's call that ``frame`` belongs to."""
    code, found = frame.f_code, frame.f_locals
    if code.co_name == "_call_impl" and code.co_filename.startswith(_TORCH):
        return found["args"], found["kwargs"]
    return None


def _came(args: tuple[Any, ...], kwargs: dict[str, Any], origin: Origin | None) -> str:
    parts = []
    for name, value in [*((None, value) for value in args), *kwargs.items()]:
        text = shown(value) if name is None else f"{name}={shown(value)}"
        maker = origin(value) if origin is not None and isinstance(value, torch.Tensor) else None
        parts.append(f"{text} from {maker}" if maker is not None else text)
    return ", ".join(parts) or "no input"


def _place(frames: list[tuple[FrameType, int]]) -> str | None:
    """File and line of the innermost frame that is neither torch's nor ours."""
    for frame, line in reversed(frames):
        file = frame.f_code.co_filename
        if not file.startswith((_TORCH, _OURS)) and not file.startswith("<"):
            return f"{file}:{line}"
    return None
