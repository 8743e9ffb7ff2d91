"""The tensors of one module, exchanged for others while it runs, and put back.

``skeleton`` copies a module without its numbers; ``Exchange`` lets other tensors stand in every
slot of such a copy for the time of a call, and tells what the call wrote into its places.
The dictionaries ``_parameters``, ``_buffers`` and ``_modules`` of ``nn.Module`` are reached here,
in ``before``, ``structure``, ``ties`` and ``walk`` alone.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from chimera.paths.before import Before, Registered, Remade, changed, flat, watched
from chimera.paths.bind import bind
from chimera.paths.shared import Links, link, shared
from chimera.paths.structure import Place, Reading, own_attributes, read
from chimera.paths.tags import carry_tags, retagged, tags_of


class Gone(enum.Enum):
    """Stands for an attribute that a call deleted."""

    GONE = enum.auto()


GONE = Gone.GONE


def skeleton(module: nn.Module) -> nn.Module:
    """A deep copy of ``module`` in which every tensor of its own is on the meta device.

    No numbers are copied. Ties are kept.
    """
    return _copied(module, [_on_meta(slot.tensor) for slot in read(module).slots])


def with_tensors(module: nn.Module, tensors: Sequence[Tensor]) -> nn.Module:
    """A deep copy of ``module`` that holds ``tensors``, one a slot, in the order of ``read``."""
    return _copied(module, tensors)


def _copied(module: nn.Module, tensors: Sequence[Tensor]) -> nn.Module:
    reading = read(module)
    pairs = [(slot.tensor, tensor) for slot, tensor in zip(reading.slots, tensors, strict=True)]
    for tensor, copied in pairs:
        carry_tags(tensor, copied)
    # deepcopy asks the memo for the ids of what it copies, so the originals must stay alive.
    try:
        made = copy.deepcopy(module, {id(old): new for old, new in pairs})
    except Exception as error:
        error.add_note(f"{type(module).__name__} must be copied, and copy.deepcopy cannot do it")
        raise
    modules = [module for _, module in read(made).modules]
    if len(modules) != len(reading.modules):
        raise ValueError(
            f"copy.deepcopy of {type(module).__name__} gives {len(modules)} modules, "
            f"the original has {len(reading.modules)}"
        )
    originals = [module for _, module in reading.modules]
    bind(modules, {id(old): new for old, new in [*pairs, *zip(originals, modules, strict=True)]})
    return made


def _on_meta(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


class Exchange:
    """The places of one module's tensors, ready to be filled.

    Args:
        reading: what ``read`` found in the module.
        forwards: for some modules, by index, a ``forward(module, ...)`` to run instead of theirs.
    """

    def __init__(
        self, reading: Reading, forwards: Mapping[int, Callable[..., Any]] | None = None
    ) -> None:
        self._modules = [module for _, module in reading.modules]
        self._forwards = {
            index: MethodType(forward, self._modules[index])
            for index, forward in (forwards or {}).items()
        }
        self._homes: list[tuple[dict[str, Any], str, int]] = []
        self._attributes: dict[tuple[int, str], list[tuple[int, int]]] = {}
        for index, slot in enumerate(reading.slots):
            for place in slot.places:
                if place.kind == "attribute":
                    leaves = self._attributes.setdefault((place.module, place.name), [])
                    leaves.append((place.leaf, index))
                else:
                    self._homes.append((self._home(place), place.name, index))
        self._held = reading.held
        self._paths = [path for path, _ in reading.modules]
        self._own = [slot.tensor for slot in reading.slots]
        self._trained = [isinstance(tensor, nn.Parameter) for tensor in self._own]
        self._tags = [tags_of(tensor) for tensor in self._own]
        self._tagged = [(i, tags) for i, tags in enumerate(self._tags) if tags]
        self._names = [slot.path for slot in reading.slots]

    def _home(self, place: Place) -> dict[str, Any]:
        module = self._modules[place.module]
        kept: dict[str, Any] = module._parameters if place.kind == "parameter" else module._buffers
        return kept

    def put(self, tensors: Sequence[Any]) -> None:
        """Let ``tensors``, one a slot, stand in every place. ``take_back`` must follow."""
        self._links = self._shared()
        self._fill(tensors)
        self._link()
        self._placed = tensors
        self._before = [Before(module) for module in self._modules]
        self._registered = [Registered(module) for module in self._modules]
        for index, forward in self._forwards.items():
            self._modules[index].__dict__["forward"] = forward

    def _shared(self) -> Links:
        return shared([own_attributes(module) for module in self._modules])

    def _link(self) -> None:
        """Let containers that were made anew stand in all places where the old ones stood."""
        if self._links:
            link([module.__dict__ for module in self._modules], self._links)

    def _fill(self, tensors: Sequence[Any]) -> None:
        for home, name, index in self._homes:
            home[name] = tensors[index]
            if self._trained[index] and tensors[index] is not self._own[index]:
                tensors[index]._is_param = True  # what isinstance(x, nn.Parameter) asks
        for index, tags in self._tagged:
            tensors[index].__dict__.update(tags)
        for (module, name), places in self._attributes.items():
            attributes = self._modules[module].__dict__
            leaves, shape = flat(attributes[name])
            for leaf, slot in places:
                leaves[leaf] = tensors[slot]
            attributes[name] = shape.rebuild(leaves)
        for held in self._held:
            leaves, shape = flat(held.cell.cell_contents)
            leaves[held.leaf] = tensors[held.slot]
            held.cell.cell_contents = shape.rebuild(leaves)

    def written(self) -> Written:
        """What the call left in other places than it found it.

        Raises:
            Remade: it registered or removed a parameter or a module, removed a buffer, or tagged
                a tensor.
        """
        for path, tensor, tags in zip(self._names, self._placed, self._tags, strict=True):
            if (name := retagged(tensor, tags)) is not None:
                raise Remade(
                    f"{path}: forward sets {name!r} on this tensor itself, where a member of a "
                    "stack has none of its own; keep it in an attribute of the module"
                )
        slots = {
            index: home[name]
            for home, name, index in self._homes
            if home.get(name) is not None and home[name] is not self._placed[index]
        }
        buffers: dict[tuple[int, str], tuple[Tensor | None, bool]] = {}
        attributes: dict[tuple[int, str], Any] = {}
        for index, module in enumerate(self._modules):
            new = self._registered[index].new_buffers(self._paths[index])
            for name, value in new.items():
                buffers[index, name] = (value, name not in module._non_persistent_buffers_set)
            if self._before[index].holds(module, "forward" if index in self._forwards else None):
                continue
            before, now = self._before[index].attributes(), watched(module)
            if index in self._forwards:
                del now["forward"]
            for name in [*now, *(before.keys() - now.keys())]:
                value = now.get(name, GONE)
                if name not in before or changed(before[name], value):
                    attributes[index, name] = value
        links = self._shared() if attributes else ()
        return Written(
            slots,
            buffers,
            attributes,
            tuple(one for one in links if any(stand[:2] in attributes for stand in one)),
        )

    def take_back(self) -> None:
        """Put the module's own tensors and attributes back as they were before ``put``."""
        for index in self._forwards:
            self._modules[index].__dict__.pop("forward", None)
        for registered in self._registered:
            registered.restore()
        for module, before in zip(self._modules, self._before, strict=True):
            if not before.holds(module):
                self._undo(module, before.attributes())
        self._fill_back()
        self._link()
        self._placed, self._before, self._registered = (), [], []

    @staticmethod
    def _undo(module: nn.Module, before: dict[str, Any]) -> None:
        for name in before.keys() - module.__dict__.keys():
            module.__dict__[name] = before[name][0]
        for name, value in watched(module).items():
            if name not in before:
                del module.__dict__[name]
            elif changed(before[name], value):
                _, leaves, shape = before[name]
                module.__dict__[name] = shape.rebuild(leaves)

    def _fill_back(self) -> None:
        for home, name, index in self._homes:
            home[name] = self._own[index]
        for (module, name), places in self._attributes.items():
            attributes = self._modules[module].__dict__
            _, leaves, shape = self._before[module].nested[name]
            leaves = list(leaves)
            for leaf, slot in places:
                leaves[leaf] = self._own[slot]
            attributes[name] = shape.rebuild(leaves)
        for held in self._held:
            leaves, shape = flat(held.cell.cell_contents)
            leaves[held.leaf] = self._own[held.slot]
            held.cell.cell_contents = shape.rebuild(leaves)


@contextmanager
def standing_in(modules: Iterable[nn.Module], new: Mapping[int, Tensor]) -> Iterator[None]:
    """Let other tensors stand in the places of the modules' own parameters for some time.

    Args:
        modules: whose parameters; not those of their children.
        new: by the id of a parameter the tensor in its place.
    """
    saved = [(module, dict(module._parameters)) for module in modules]
    for module, parameters in saved:
        for name, parameter in parameters.items():
            tensor = new.get(id(parameter))
            if tensor is not None:
                tensor._is_param = True
                module._parameters[name] = tensor  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, parameters in saved:
            module._parameters.update(parameters)


@dataclass(slots=True)
class Written:
    """What a call wrote.

    Attributes:
        slots: new tensors, by slot.
        buffers: by (module index, name) what it registered where no buffer stood, or ``None``
            where one stood; and whether the buffer is persistent.
        attributes: new values, by (module index, name); ``GONE`` for what it deleted.
        links: the containers among them that stand in several places.
    """

    slots: dict[int, Tensor]
    buffers: dict[tuple[int, str], tuple[Tensor | None, bool]]
    attributes: dict[tuple[int, str], Any]
    links: Links = ()
