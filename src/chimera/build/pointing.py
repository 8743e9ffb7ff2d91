"""Errors that point: which module of a network failed, who made what it took, what mends it.

Nothing is done before an error. After one, its traceback tells the module; a copy of what was
called runs once more without data, to tell who made its inputs.
"""

from contextlib import ContextDecorator, nullcontext, suppress
from dataclasses import replace
from types import TracebackType

import torch
from torch import nn

from chimera.build.inputs import Inputs
from chimera.build.makers import makers, marks
from chimera.build.record import Call
from chimera.build.trial import try_shapes
from chimera.paths.nest import tensors_in
from chimera.paths.notes import Origin, is_pointed, is_pointed_below, point, point_at, unpoint
from chimera.paths.raised import Raised, raised
from chimera.paths.walk import join


class pointing(ContextDecorator):
    """A context in which an exception raised in a forward of ``net`` says where.

    The exception keeps its type and traceback and gains one note: the path from ``net``, the
    module on one line, the shapes and dtypes that came in and which module made them, what the
    layer wanted, and the mend, as far as they are known. Nothing is done unless one is raised;
    then a copy of what was called runs once more without data, unless ``torch.distributed`` is
    in use. Errors of the backward pass and from elsewhere stay as they are.

    It may be nested, entered again, entered in several threads, and used as a decorator. Inside a
    ``Stack`` the note names the member; ``build``, ``summary`` and ``fit`` point by themselves.

    Args:
        net: a module; paths start there.

    Raises:
        TypeError: ``net`` is no module.
    """

    def __init__(self, net: nn.Module) -> None:
        if isinstance(net, type) and issubclass(net, nn.Module):
            raise TypeError(
                f"pointing: net must be a module; got the class {net.__name__}; give an instance"
            )
        if not isinstance(net, nn.Module):
            raise TypeError(
                f"pointing: net must be a module; got {net!r:.60} of type {type(net).__name__}"
            )
        self._net = net

    def __enter__(self) -> nn.Module:
        return self._net

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception):
            point_out(error, self._net)


def point_out(error: Exception, net: nn.Module, member: str | None = None) -> None:
    """``paths.notes.point``, told who made what by a second run.

    Args:
        error: what was raised, caught where its traceback still shows the call of ``net``.
        net: where paths start.
        member: ``member 3``, if ``net`` is that of a stack.
    """
    try:
        if is_pointed_below(error, net):
            unpoint(error)
        found = None if is_pointed(error) else raised(error, net)
        if found is None:
            point(error, net, None, member)
        else:
            seen, origin = _seen_again(error, net, found)
            point_at(error, net, seen if found.compiled else found, seen, origin, member)
    except Exception:  # noqa: BLE001 - what goes wrong here must not hide the error itself
        with suppress(Exception):
            point(error, net, None, member)


def _seen_again(error: Exception, net: nn.Module, found: Raised) -> tuple[Raised, Origin | None]:
    """The failure in a run without data of a copy, and who made what in it.

    Where that run fails elsewhere, or does not fail, ``found`` itself, and who made its inputs if
    all calls with such inputs agree on it.
    """
    if found.outer is None or found.call is None or _is_distributed():
        return found, None
    module, (args, kwargs) = found.outer
    paths = {id(inner): path for path, inner in net.named_modules()}
    above = paths[id(module)]
    inside = found.path.removeprefix(above).removeprefix(".")
    copies: list[nn.Module] = []

    def told(copy: nn.Module) -> Origin:
        return lambda tensor: makers(tensor).told(copy, above)

    def watch(copy: nn.Module) -> nullcontext[None]:
        copies.append(copy)
        return nullcontext()

    try:
        calls = try_shapes(module, Inputs(args, kwargs), watch=watch).calls
    except Exception as again:  # noqa: BLE001 - whatever the forward raises, seen or not before
        for copy in copies if found.compiled or type(again) is type(error) else ():
            seen = raised(again, copy)
            if seen is None:
                continue
            if found.compiled:  # no frame tells more than that this ran
                return replace(seen, path=join(above, seen.path), line=found.line), told(copy)
            if seen.path == inside and _alike(seen, found):
                return seen, told(copy)
        calls = {}
    return found, _by_place(module, found, calls.get(inside), above)


def _alike(one: Raised, other: Raised) -> bool:
    """Whether both were called with tensors of the same shapes and dtypes."""
    if one.call is None or other.call is None:
        return False
    return marks(one.call) == marks(other.call)


def _by_place(net: nn.Module, found: Raised, call: Call | None, above: str) -> Origin | None:
    """Who made the inputs of ``found``, from the calls of its module with such inputs."""
    assert found.call is not None
    made = None if call is None else call.origins.get(marks(found.call))
    if made is None:
        return None
    known = dict(zip(map(id, tensors_in(found.call)), made, strict=True))
    return lambda tensor: known[id(tensor)].told(net, above) if id(tensor) in known else None


def _is_distributed() -> bool:
    """Whether a forward may wait for other processes, which do not run it again."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()
