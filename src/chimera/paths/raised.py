"""Where in a network an error was raised: read from the frames of its traceback.

Nothing is done before an error. A frame belongs to a module when its ``self`` is one of the
network's: torch's own call of it, its forward, or a method of the user's. An error of the backward
pass belongs to none.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from chimera.paths.walk import first_paths

_TORCH = os.path.dirname(torch.__file__) + os.sep
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""What a call took, by position and by name."""


@dataclass(frozen=True)
class Raised:
    """The innermost module that was running when an error was raised."""

    module: nn.Module
    path: str
    call: Arguments | None
    """What it was called with; None where its forward was called by hand."""
    outer: tuple[nn.Module, Arguments] | None
    """The outermost call of a module of the network, and what it took."""
    operation: tuple[Any, Arguments] | None
    """The function of torch that failed in it, where a function mode saw the call."""
    line: str | None
    """File and line of the innermost frame that is neither torch's nor ours."""
    compiled: bool = False
    """Whether it ran compiled, so that no frame tells of the modules in it."""


def raised(error: BaseException, root: nn.Module) -> Raised | None:
    """Where in ``root`` the error was raised; None where no module of it was running."""
    paths = {id(module): path for module, path in first_paths(root).items()}
    frames = list(_frames(error.__traceback__))
    module: nn.Module | None = None
    call: Arguments | None = None
    outer: tuple[nn.Module, Arguments] | None = None
    operation: tuple[Any, Arguments] | None = None
    compiled = False
    for frame, _ in frames:
        running: Any = frame.f_locals.get("self")
        whole = type(running).__name__ == "OptimizedModule"  # of torch.compile
        inner = getattr(running, "_orig_mod", None) if whole else None
        if inner is not None and id(inner) in paths:
            running, compiled = inner, True
        elif id(running) in paths:
            compiled = False
        if _is_backward(frame):
            module = outer = None
        elif isinstance(running, TorchFunctionMode):
            operation = _operation(frame) or operation
        elif id(running) in paths and isinstance(running, nn.Module) and _runs(frame):
            if running is not module:
                module, call = running, None
            operation = None
            call = _call(frame) or call
            if outer is None and call is not None:
                outer = module, call
    if module is None:
        return None
    return Raised(module, paths[id(module)], call, outer, operation, _line(frames), compiled)


def _frames(traceback: TracebackType | None) -> Iterator[tuple[FrameType, int]]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


def _is_backward(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_name == "_engine_run_backward" and code.co_filename.startswith(_TORCH)


def _runs(frame: FrameType) -> bool:
    """Whether a method runs the module, rather than making, showing, moving or loading it."""
    name, file = frame.f_code.co_name, frame.f_code.co_filename
    if file == torch.nn.modules.module.__file__:
        return name == "_call_impl"
    return name == "__call__" or not (name.startswith("__") and name.endswith("__"))


def _call(frame: FrameType) -> Arguments | None:
    """The arguments of the module's call that ``frame`` belongs to."""
    code, found = frame.f_code, frame.f_locals
    if code.co_name == "_call_impl" and code.co_filename.startswith(_TORCH):
        return found["args"], found["kwargs"]
    return None


def _operation(frame: FrameType) -> tuple[Any, Arguments] | None:
    """The function that a function mode was asked for."""
    found = frame.f_locals
    if frame.f_code.co_name != "__torch_function__" or "func" not in found:
        return None
    return found["func"], (tuple(found.get("args") or ()), dict(found.get("kwargs") or {}))


def users_line(error: BaseException) -> str | None:
    """File and line of the innermost frame of an error that is neither torch's nor ours."""
    return _line(list(_frames(error.__traceback__)))


def _line(frames: list[tuple[FrameType, int]]) -> str | None:
    for frame, line in reversed(frames):
        file = frame.f_code.co_filename
        if not file.startswith((_TORCH, _OURS)) and not file.startswith("<"):
            return f"{file}:{line}"
    return None
