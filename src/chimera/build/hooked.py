"""The hooks of a copy: they see the copy, and write to copies of what they close over.

``copy.deepcopy`` shares functions. A hook that a copy shared would put what it gathers of a run on
trial into the lists of the caller, and one that closes over ``self`` into the network itself. What
a hook calls, and what cannot be copied (an open file, a lock), is shared still.
"""

import copy
import functools
import types
from collections.abc import Iterator
from typing import Any

from torch import nn

from chimera.paths.hooks import hooks_of
from chimera.paths.nest import parts_of, tensors_in

Memo = dict[int, Any]
"""Copies by the id of what they are copies of, as ``copy.deepcopy`` keeps them."""


def keep_hooks(net: nn.Module, memo: Memo) -> None:
    """Give the copy that is to be made with ``memo`` tables of hooks of its own."""
    for module in net.modules():
        for table in hooks_of(module):
            memo[id(table)] = table.copy()


def rebind(net: nn.Module, memo: Memo) -> None:
    """Bind the hooks of a copy of ``net``, made with ``memo``, and the functions among its
    attributes that close over a part of ``net``, to the copy."""
    for module in net.modules():
        for table in hooks_of(module):
            for key, hook in table.items():
                if key in memo[id(table)]:
                    memo[id(table)][key] = _bound(hook, memo)
        made = memo.get(id(module))
        for name, value in module.__dict__.items() if made is not None else ():
            if type(value) is types.FunctionType and _closes_over(value, memo):
                made.__dict__[name] = _function(value, memo)


def _bound(value: Any, memo: Memo) -> Any:
    """A hook, or what one holds, for the copy."""
    if id(value) in memo:
        return memo[id(value)]
    if isinstance(value, types.FunctionType):
        return _function(value, memo)
    if isinstance(value, types.MethodType):
        return types.MethodType(value.__func__, _bound(value.__self__, memo))
    if type(value) is functools.partial:
        named = {name: _bound(part, memo) for name, part in value.keywords.items()}
        parts = (_bound(part, memo) for part in value.args)
        return functools.partial(_bound(value.func, memo), *parts, **named)
    return _copied(value, memo)


def _copied(value: Any, memo: Memo) -> Any:
    if isinstance(value, _SHARED):
        return value
    for tensor in tensors_in(value, objects=True):
        memo.setdefault(id(tensor), tensor)  # of what was gathered before only the list is copied
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # noqa: BLE001 - whatever an object's own way to be copied raises
        memo[id(value)] = value
        return value


_SHARED = (type, types.ModuleType, types.BuiltinFunctionType, nn.Module)


def _function(function: types.FunctionType, memo: Memo) -> types.FunctionType:
    named = _globals(function, memo)
    old = function.__closure__ or ()
    fresh = [cell for cell in old if id(cell) not in memo]
    new = tuple(memo.setdefault(id(cell), types.CellType()) for cell in old)
    made = types.FunctionType(
        function.__code__, named, function.__name__, closure=new if old else None
    )
    memo[id(function)] = made  # before its cells are filled, one of which may hold it
    for cell in fresh:
        for held in _content(cell):
            memo[id(cell)].cell_contents = _bound(held, memo)
    made.__defaults__ = function.__defaults__ and tuple(
        _bound(part, memo) for part in function.__defaults__
    )
    made.__kwdefaults__ = function.__kwdefaults__ and {
        name: _bound(part, memo) for name, part in function.__kwdefaults__.items()
    }
    made.__dict__.update(function.__dict__)
    made.__qualname__, made.__module__ = function.__qualname__, function.__module__
    return made


def _content(cell: types.CellType) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # nothing was put into it yet
        return ()


def _closes_over(function: types.FunctionType, memo: Memo) -> bool:
    """Whether a function closes over something that was copied."""
    cells = function.__closure__ or ()
    return any(memo.get(id(held), held) is not held for c in cells for held in _content(c))


def _globals(function: types.FunctionType, memo: Memo) -> dict[str, Any]:
    """The global names of a function, with copies of the containers and objects that it names."""
    old = function.__globals__
    named: dict[str, Any] = memo.setdefault(id(old), dict(old))
    for name in _names(function.__code__):
        if name in old and parts_of(old[name]) is not None:
            named[name] = _bound(old[name], memo)
    return named


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _names(inner)
