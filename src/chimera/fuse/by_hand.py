"""Whether a module's forward is branches written by hand, and nothing else.

That is: one input, given to children of the module, each called once and in order; and what they
give, in that order, joined by ``torch.cat`` or ``torch.stack``. ``torch.fx`` records the forward
with every child as a leaf; its record is the proof. A forward that asks Python (``if``, ``while``)
may do something else another time, and one that writes keeps what a Parallel would not; both are
refused: its compiled code tells, so that no source is
needed.
"""

from __future__ import annotations

import copy
import dis
import inspect
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch
from torch import fx, nn

from chimera.paths.structure import own_attributes
from chimera.stack.contents import as_text

_JOINS = {torch.cat: "concat", torch.concat: "concat", torch.stack: "stack"}
_NAMES = ("cat", "concat", "stack")


class NotExactly(Exception):
    """A forward that is more, or less, than branches side by side; the message says in what."""


@dataclass(frozen=True, slots=True)
class ByHand:
    """Branches written by hand.

    Attributes:
        branches: their paths in the module, in order.
        combine: "concat" or "stack".
        dim: the axis.
    """

    branches: list[str]
    combine: str
    dim: int


_WRITES = ("STORE_ATTR", "DELETE_ATTR", "STORE_GLOBAL", "STORE_SUBSCR", "DELETE_SUBSCR")


class _Leaves(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def joins_by_hand(module: nn.Module) -> bool:
    """Whether the forward of a module of a user's own names ``cat`` or ``stack``."""
    return any(name in code.co_names for code in _codes(module) for name in _NAMES)


def by_hand(module: nn.Module) -> ByHand:
    """The branches that ``module`` runs by hand.

    Raises:
        NotExactly: its forward is not exactly that; the message says why.
    """
    for code in _codes(module):
        for step in dis.get_instructions(code):
            if "JUMP" in step.opname and "IF" in step.opname:
                raise NotExactly("its forward asks Python (if, while), so it may do otherwise")
            if step.opname in _WRITES:
                what = step.argval if isinstance(step.argval, str) else "to a container"
                raise NotExactly(f"its forward writes {what}, which a Parallel would not")
    if any(True for _ in (*module.parameters(False), *module.buffers(False))):
        raise NotExactly("it has parameters or buffers of its own")
    traced = copy.deepcopy(module)
    before = _attributes(traced)
    try:
        graph = _Leaves().trace(traced)
    except Exception as error:
        raise NotExactly(f"torch.fx cannot follow its forward ({error})"[:200]) from error
    after = _attributes(traced)
    for name in before.keys() | after.keys():
        if before.get(name) != after.get(name):
            raise NotExactly(f"its forward changes {name}, which a Parallel would not")
    return _read(module, graph)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What a module keeps beside tensors and children, to compare."""
    found = {}
    for name, value in own_attributes(module).items():
        text = as_text(value)
        found[name] = id(value) if text is None else text
    return found


def _codes(module: nn.Module) -> list[CodeType]:
    """The code of the forward, of every method that it names, and of what is inside them."""
    own = [kind for kind in type(module).__mro__ if not kind.__module__.startswith("torch.")]
    found: dict[str, list[CodeType]] = {}
    wanted = ["forward"]
    while wanted:
        name = wanted.pop()
        if name not in found:
            methods = [method for kind in own if inspect.isfunction(method := vars(kind).get(name))]
            found[name] = [code for method in methods for code in _nested(method.__code__)]
            wanted += [name for code in found[name] for name in code.co_names]
    return [code for codes in found.values() for code in codes]


def _nested(code: CodeType) -> list[CodeType]:
    inside = [const for const in code.co_consts if isinstance(const, CodeType)]
    return [code, *(each for const in inside for each in _nested(const))]


def _read(module: nn.Module, graph: fx.Graph) -> ByHand:
    nodes = list(graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    calls = [node for node in nodes if node.op == "call_module"]
    joins = [node for node in nodes if node.op == "call_function"]
    output = nodes[-1]
    if len(inputs) != 1:
        raise NotExactly(f"its forward takes {len(inputs)} inputs, not one")
    for node in nodes:
        if node.op in ("get_attr", "call_method") or (node in joins and node.target not in _JOINS):
            raise NotExactly(f"its forward also calls {_said(node.target)}")
    if len(joins) != 1 or output.args[0] is not joins[0]:
        raise NotExactly("it does not give exactly what one cat or stack gives")
    for node in calls:
        if node.args != (inputs[0],) or node.kwargs:
            raise NotExactly(f"{node.target} is called with something else than the input alone")
    join = joins[0]
    tensors, dim = _arguments(join)
    if list(tensors) != calls or len(calls) < 2:
        raise NotExactly("what is joined is not what each branch gives, once and in order")
    branches = [str(node.target) for node in calls]
    if len({id(module.get_submodule(path)) for path in branches}) != len(branches):
        raise NotExactly("one module runs as two branches")
    _whole(module, branches)
    return ByHand(branches, _JOINS[join.target], dim)


def _said(target: Any) -> str:
    return str(getattr(target, "__name__", target))


def _arguments(join: fx.Node) -> tuple[Any, int]:
    given: dict[str, Any] = dict(zip(("tensors", "dim"), join.args, strict=False)) | join.kwargs
    dim = given.pop("dim", given.pop("axis", 0))
    tensors = given.pop("tensors", None)
    if given or not isinstance(dim, int) or not isinstance(tensors, list | tuple):
        raise NotExactly("its cat or stack is called in a way of its own")
    return tensors, dim


def _whole(module: nn.Module, branches: list[str]) -> None:
    """Everything that the module holds must be a branch, in the order of its ``state_dict``."""
    held = [path for path, _ in module.named_modules(remove_duplicate=False) if path]
    inside = {path for path in held if any(path.startswith(f"{b}.") for b in branches)}
    above = {".".join(b.split(".")[:i]) for b in branches for i in range(1, b.count(".") + 1)}
    other = [path for path in held if path not in inside | above | set(branches)]
    if other:
        raise NotExactly(f"it holds {other[0]}, which is no branch")
    for path in above:
        kind = type(module.get_submodule(path))
        if kind not in (nn.ModuleList, nn.ModuleDict):
            raise NotExactly(f"its branches stand in {path}, a {kind.__name__}")
    if [path for path in held if path in branches] != branches:
        raise NotExactly("its branches run in another order than that of its state_dict")
