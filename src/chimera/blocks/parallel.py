"""Parallel: branches side by side, their outputs made one.

Contract: no state of its own. The input is never changed, whatever a branch does to what it is
given (see ``inplace.py``), nor is a branch's output when the outputs are combined.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from chimera.blocks.checked import described
from chimera.blocks.children import children, given, names, replace
from chimera.blocks.combine import WAYS
from chimera.blocks.inplace import Touch, copied, may_change, promise
from chimera.paths.arguments import as_device
from chimera.paths.nest import flatten, map_leaves


class Parallel(nn.Module):
    """Branches side by side.

    Args:
        *branches: modules by position, or one dict of named modules, in its order.
        combine: what becomes of the outputs: "concat" along ``dim``, "stack" along a new axis
            ``dim``, "sum", "mean", "tuple" (outputs of any kind), or a function of their list.
        dim: the axis for "concat" and "stack".
        inputs: "same": every branch takes all that came in. "each": one input a branch, as
            positional arguments or as one list or tuple; keywords go to all.
        devices: one device a branch. Each branch is moved to its own; inputs are copied over,
            outputs joined on the first, gradients flow back. Work on accelerators is queued, so
            that branches on different ones run at the same time. A branch runs where its
            parameters are: after ``.to(device)`` of the whole network, on that device.

    A branch that may change its input in place gets a copy of it: the caller's tensors and the
    other branches' stay as they were. Objects other than tensors, and lists, tuples, dicts and
    dataclasses of them, are handed on as they are.

    Raises:
        TypeError: a branch is no module: a class where an instance belongs, a function, a list;
            something in ``devices`` is no device.
        ValueError: no branches, a bad name, an unknown ``combine`` or ``inputs``, a wrong number of
            devices or one that is not here; when it runs, outputs that do not fit, with the
            branches and their shapes.
    """

    combine: str | Callable[[list[Any]], Any]
    dim: int
    inputs: str
    devices: tuple[torch.device, ...] | None

    def __init__(
        self,
        *branches: Any,
        combine: str | Callable[[list[Any]], Any] = "concat",
        dim: int = 1,
        inputs: str = "same",
        devices: Sequence[torch.device | str | int] | None = None,
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        pairs = given(kind, "branch", branches)
        if not pairs:
            raise ValueError(f"{kind}: no branches; pass one module or more.")
        self.combine = _checked_combine(kind, combine)
        self.dim, self.inputs = _checked_options(kind, dim, inputs)
        self.devices = _checked_devices(kind, devices, len(pairs))
        replace(self, pairs)
        for branch, device in zip(children(self), self.devices or (), strict=False):
            branch.to(device)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The outputs of the branches, combined."""
        branches = children(self)
        taken = self._each(inputs) if self.inputs == "each" else [inputs] * len(branches)
        outputs = [
            self._run(i, branch, arguments, named)
            for i, (branch, arguments) in enumerate(zip(branches, taken, strict=True))
        ]
        if self.devices is not None:
            leaves, _ = flatten(outputs[0])
            first = next((t.device for t in leaves if isinstance(t, Tensor)), self.devices[0])
            outputs = [_moved(output, first) for output in outputs]
        if callable(self.combine):
            return self.combine(outputs)
        return WAYS[self.combine](names(self), outputs, self.dim)

    def _run(self, i: int, branch: nn.Module, inputs: tuple[Any, ...], named: Any) -> Any:
        if self.devices is not None:
            place = _device(branch, self.devices[i])
            inputs, named = _moved(inputs, place), _moved(named, place)
        if may_change(branch, given_on=callable(self.combine)):
            inputs, named = copied((inputs, named))
        return branch(*inputs, **named)

    def _each(self, inputs: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        if len(inputs) == 1 and isinstance(inputs[0], list | tuple):
            inputs = tuple(inputs[0])
        if len(inputs) != len(self):
            raise ValueError(
                f"{type(self).__name__}: inputs='each' takes one input a branch, "
                f"{len(self)} for {names(self)}; got {len(inputs)}."
            )
        return [(value,) for value in inputs]

    def __len__(self) -> int:
        return len(names(self))

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(children(self))

    def __getitem__(self, index: int) -> nn.Module:
        return children(self)[index]

    def extra_repr(self) -> str:
        said = [f"combine={self.combine!r}"]
        if self.combine in ("concat", "stack"):
            said.append(f"dim={self.dim}")
        if self.inputs == "each":
            said.append("inputs='each'")
        if self.devices is not None:
            said.append(f"devices={[str(device) for device in self.devices]}")
        return ", ".join(said)


def _checked_combine(kind: str, combine: Any) -> Any:
    if isinstance(combine, type | nn.Module):
        raise TypeError(
            f"{kind}: combine is {described(combine)}; pass a function of the list of outputs, or "
            "put a module that works on them after this block, with combine='tuple'."
        )
    if callable(combine) or (isinstance(combine, str) and combine in WAYS):
        return combine
    raise ValueError(
        f"{kind}: combine is one of {', '.join(map(repr, WAYS))}, or a function of the list of "
        f"outputs; got {described(combine)}."
    )


def _checked_options(kind: str, dim: Any, inputs: Any) -> tuple[int, str]:
    if not isinstance(dim, int) or isinstance(dim, bool):
        raise TypeError(f"{kind}: dim is an int; got {described(dim)}.")
    if inputs not in ("same", "each"):
        raise ValueError(f"{kind}: inputs is 'same' or 'each'; got {described(inputs)}.")
    return dim, inputs


def _checked_devices(kind: str, devices: Any, branches: int) -> tuple[torch.device, ...] | None:
    if devices is None:
        return None
    if not isinstance(devices, list | tuple) or len(devices) != branches:
        raise ValueError(
            f"{kind}: devices is a list of one device a branch; got {devices!r} for {branches} "
            "branches."
        )
    return tuple(
        as_device(f"{kind}: devices[{index}]", device) for index, device in enumerate(devices)
    )


def _device(module: nn.Module, otherwise: torch.device) -> torch.device:
    """Where the parameters and buffers of ``module`` are."""
    return next((t.device for t in chain(module.parameters(), module.buffers())), otherwise)


def _moved(values: Any, device: torch.device) -> Any:
    """Nested tensors on ``device``; those on meta, which have no data, stay."""

    def on_device(leaf: Any) -> Any:
        stays = not isinstance(leaf, Tensor) or leaf.is_meta
        return leaf if stays else leaf.to(device)

    return map_leaves(on_device, values)


promise(Parallel, lambda block: Touch.PASSES)
