"""The structure of a module: what two modules must have in common to run as one.

``read`` walks a module once, the modules hidden in its plain attributes too, and lists every
tensor that it holds with all its places, and every other fact about it. Two modules of equal
facts hold the same number of tensors, in the same places, in the same order; what remains
different between them is the numbers in the tensors, and which of them require a gradient.
"""

from __future__ import annotations

import dataclasses
import sys
from itertools import zip_longest
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrize

from chimera.paths.describe import Describer, Held, same
from chimera.paths.nest import flatten, leaf_names
from chimera.paths.own_hooks import computed_by
from chimera.paths.shared import shared
from chimera.paths.tags import tags_of
from chimera.paths.walk import join

NOTHING = object()
_INTERNAL = frozenset(nn.Module().__dict__)
# torch's RNNs list their parameters there, again after a change.
DERIVED = frozenset({"_flat_weights", "_flat_weight_refs"})
HOOKS = tuple(sorted(name for name in _INTERNAL if name.endswith("_hooks")))
_CALLED = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor stands: in which module (its index), as what, under which name.

    Attributes:
        module: index of the module in ``Reading.modules``.
        kind: ``"parameter"``, ``"buffer"`` or ``"attribute"``.
        name: the name in that module.
        leaf: for an attribute, which leaf of its value.
    """

    module: int
    kind: str
    name: str
    leaf: int = 0


@dataclasses.dataclass(slots=True)
class Slot:
    """One tensor of a module, with every place where it stands; ``path`` names the first.

    A ``computed`` one is written by a hook of torch's own before every call.
    """

    path: str
    tensor: Tensor
    hidden: bool
    persistent: bool
    places: list[Place]
    computed: bool = False

    @property
    def kind(self) -> str:
        """What the tensor is registered as at its first place."""
        return self.places[0].kind


class Fact(NamedTuple):
    """One property of the module at ``path``."""

    path: str
    name: str
    value: Any


@dataclasses.dataclass(slots=True)
class Reading:
    """What ``read`` found: the distinct modules and tensors in order, and the facts.

    Attributes:
        modules: with their first paths.
        slots: the tensors.
        facts: every property that members of one structure share.
        hooks: the paths of modules with hooks that a call or its backward fires, other than
            those of torch's own that only compute an attribute.
        held: the tensors that functions' closures hold, too.
    """

    modules: list[tuple[str, nn.Module]] = dataclasses.field(default_factory=list)
    slots: list[Slot] = dataclasses.field(default_factory=list)
    facts: list[Fact] = dataclasses.field(default_factory=list)
    hooks: list[str] = dataclasses.field(default_factory=list)
    held: list[Held] = dataclasses.field(default_factory=list)


def read(root: nn.Module) -> Reading:
    """The structure of ``root``.

    Raises TypeError where a module in it is sharded over processes.
    """
    reader = _Reader()
    reader.module(root, "", hidden=False)
    reader.attributes()
    return Reading(reader.modules, reader.slots, reader.described(), reader.hooks, reader.held)


def is_internal(name: str) -> bool:
    """Whether an attribute of this name is one that ``nn.Module`` itself keeps."""
    return name in _INTERNAL


def own_attributes(module: nn.Module) -> dict[str, Any]:
    """The plain attributes of a module: all that ``nn.Module`` itself does not keep."""
    return {name: value for name, value in module.__dict__.items() if name not in _INTERNAL}


def written_attributes(module: nn.Module) -> dict[str, Any]:
    """The plain attributes of a module, less what torch's layers derive from others there."""
    return {name: value for name, value in own_attributes(module).items() if name not in DERIVED}


def difference(one: Reading, other: Reading) -> tuple[Fact, Fact] | None:
    """The first fact in which two structures differ, or None where they are the same."""
    for a, b in zip_longest(one.facts, other.facts):
        if a is None or b is None or (a.path, a.name) != (b.path, b.name):
            return _alone(a, b, one, other)
        if not same(a.value, b.value):
            return a, b
    return None


def _alone(a: Fact | None, b: Fact | None, one: Reading, other: Reading) -> tuple[Fact, Fact]:
    """A fact that one structure alone has; the two at hand where only the order differs."""
    mine, theirs = ({(f.path, f.name) for f in reading.facts} for reading in (one, other))
    if a is not None and (b is None or (a.path, a.name) not in theirs):
        return a, Fact(a.path, a.name, NOTHING)
    assert b is not None
    if a is None or (b.path, b.name) not in mine:
        return Fact(b.path, b.name, NOTHING), b
    return a, b


@dataclasses.dataclass(frozen=True, slots=True)
class _Later:
    """A value that is described when every module and tensor is known."""

    value: Any


class _Reader:
    def __init__(self) -> None:
        self.modules: list[tuple[str, nn.Module]] = []
        self.slots: list[Slot] = []
        self.facts: list[Fact] = []
        self.hooks: list[str] = []
        self.held: list[Held] = []
        self._module_index: dict[int, int] = {}
        self._slot_index: dict[int, int] = {}
        self._computed: set[str] = set()

    def module(self, module: nn.Module, path: str, hidden: bool) -> int:
        known = self._module_index.get(id(module))
        if known is not None:
            self._fact(path, "module", ("same as", known))
            return known
        _check_whole(module, path)
        index = self._module_index[id(module)] = len(self.modules)
        self.modules.append((path, module))
        self._fact(path, "class", _class_of(module))
        self._fact(path, "training", module.training)
        self._registered(module, path, index, hidden)
        self._hooks(module, path)
        for name, child in module._modules.items():
            if child is None:
                self._fact(join(path, name), "module", None)
            else:
                self.module(child, join(path, name), hidden)
        return index

    def attributes(self) -> None:
        """Read the plain attributes, once every registered module is known by its path."""
        for index, (path, module) in enumerate(self.modules):  # grows as hidden modules are found
            for name, value in own_attributes(module).items():
                self._attribute(path, name, value, index)
        for first, *others in shared([own_attributes(module) for _, module in self.modules]):
            also = tuple((self.modules[index][0], *rest) for index, *rest in others)
            self._fact(join(self.modules[first[0]][0], first[1]), "shared", (first[2], *also))

    def _registered(self, module: nn.Module, path: str, index: int, hidden: bool) -> None:
        for name, parameter in module._parameters.items():
            place = Place(index, "parameter", name)
            self._tensor(join(path, name), parameter, place, hidden, True)
        for name, buffer in module._buffers.items():
            persistent = name not in module._non_persistent_buffers_set
            place = Place(index, "buffer", name)
            self._tensor(join(path, name), buffer, place, hidden, persistent)

    def _tensor(
        self, path: str, tensor: Tensor | None, place: Place, hidden: bool, persistent: bool
    ) -> None:
        if tensor is None:
            self._fact(path, place.kind, None)
            return
        known = self._slot_index.get(id(tensor))
        if known is not None:
            self.slots[known].places.append(place)
            self._fact(path, place.kind, ("same as", known))
            return
        self._slot_index[id(tensor)] = len(self.slots)
        computed = path in self._computed
        self.slots.append(Slot(path, tensor, hidden, persistent, [place], computed))
        self._fact(path, "kind", place.kind)
        lazy = nn.parameter.is_lazy(tensor)
        self._fact(path, "shape", None if lazy else tuple(tensor.shape))
        self._fact(path, "dtype", tensor.dtype)
        self._fact(path, "device", tensor.device)
        self._fact(path, "persistent", persistent)
        for name, value in tags_of(tensor).items():
            self._fact(path, f"tag {name}", _Later(value))

    def _hooks(self, module: nn.Module, path: str) -> None:
        for kind in HOOKS:
            hooks = getattr(module, kind)
            if hooks:
                self._fact(path, kind, _Later(tuple(hooks.values())))
                for flags in (f"{kind}_with_kwargs", f"{kind}_always_called"):
                    flagged = getattr(module, flags, {})
                    self._fact(path, flags, tuple(number in flagged for number in hooks))
                names = [computed_by(hook) for hook in hooks.values()]
                if kind == "_forward_pre_hooks" and None not in names:
                    self._computed.update(join(path, name) for name in names if name)
                elif kind in _CALLED:
                    self.hooks.append(path)

    def _attribute(self, path: str, name: str, value: Any, index: int) -> None:
        leaves, shape = flatten(value, objects=True)
        self._fact(join(path, name), "nesting", shape)
        for leaf, (part, where) in enumerate(
            zip(leaves, leaf_names(shape, join(path, name)), strict=True)
        ):
            if isinstance(part, Tensor):
                place = Place(index, "attribute", name, leaf)
                self._tensor(where, part, place, hidden=True, persistent=True)
            elif isinstance(part, nn.Module):
                self.module(part, where, hidden=True)
            else:
                self._fact(where, "value", _Later(part))

    def described(self) -> list[Fact]:
        """The facts, with a stand-in for every value, now that all modules are known."""
        describe = Describer(self._module_index, self._slot_index)
        facts = [
            fact._replace(value=describe(fact.value.value))
            if isinstance(fact.value, _Later)
            else fact
            for fact in self.facts
        ]
        self.held = describe.held
        return facts

    def _fact(self, path: str, name: str, value: Any) -> None:
        self.facts.append(Fact(path, name, value))


def _check_whole(module: nn.Module, path: str) -> None:
    """Raise TypeError where a module holds parts of its parameters (torch's ``fully_shard``).

    What it knows of the processes that hold the others goes on without end.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    of_ours = getattr(type(module), "__in_parts__", lambda _: False)
    if of_ours(module) or (fsdp is not None and isinstance(module, fsdp.FSDPModule)):
        raise TypeError(
            f"{path or 'the network itself'!r} is sharded over processes (fully_shard), and each "
            "holds a part of its parameters; use the network before it is sharded, or "
            "ch.distribute(net, 'shard'), which ch.save and ch.load know"
        )


def _class_of(module: nn.Module) -> Any:
    """The class; for a parametrized module, whose class is its own, what it is made of."""
    if parametrize.is_parametrized(module):
        return ("parametrized", *(base for base in type(module).__mro__[1:2]))
    return type(module)
