"""A recording of one run of a network: its operations, the values between them, its calls.

Every function of torch that the run calls becomes an ``Op``, a layer's own function (``F.linear``,
attention, an LSTM) being one. Every tensor, in every state that an operation in place gives it, is
a ``Value``. Numbers are kept as statistics only, so that a recording is small.
"""

import itertools
import math
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.overrides import TorchFunctionMode

from chimera.check.operations import LEAVING, Op, Value, Visit
from chimera.decide.ending import Ending, not_exiting
from chimera.paths.hooks import without_hooks_of_all
from chimera.paths.nest import map_leaves, tensors_in
from chimera.paths.walk import first_paths

_OURS = str(Path(__file__).parents[1])
_TORCH = str(Path(torch.__file__).parent)
_PYTHON = sysconfig.get_path("stdlib")
_RUNS = itertools.count()
_SMALL = 4096
_FEW = 65536
"""Of as many numbers NumPy makes the sums."""

_LEFT_OUT = 1e3
"""What is added to a score to leave it out is below minus this."""


class Tape(TorchFunctionMode):
    """The recording, and the mode that makes it.

    Attributes:
        ops: the operations in order.
        visits: the calls of modules, in the order in which they began.
        state: the parameters and buffers by path.
        inputs: what the network was given.
        outputs: what it returned.
        switched: the paths of the modules whose mode the run changed.
        gaps: whether a tensor came from where torch's functions are not seen.
        outside: whose numbers the run drew besides torch's, in words.
    """

    def __init__(self, root: nn.Module, *, numbers: bool = True) -> None:
        super().__init__()
        self._numbers = numbers
        self.ops: list[Op] = []
        self.visits: list[Visit] = []
        self.outputs: tuple[Value, ...] = ()
        self.inputs: tuple[Value, ...] = ()
        self.gaps = False
        self.outside: list[str] = []
        self.switched: tuple[str, ...] = ()
        self.root = root
        self._run = next(_RUNS)
        self._open: list[Visit] = []
        self._values: dict[int, Value] = {}
        self._taken: set[int] = set()
        self.state: dict[str, Value] = {
            name: self._new(tensor, name=name)
            for name, tensor in itertools.chain(root.named_parameters(), root.named_buffers())
        }

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the network, recording it; what it returns."""
        given = tensors_in((args, kwargs), objects=True)
        self.inputs = tuple(self._new(t, name=f"input {i}") for i, t in enumerate(given))
        hooks = []
        modes = {path: module.training for path, module in self.root.named_modules()}
        for module, path in first_paths(self.root).items():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            hooks.append(
                module.register_forward_pre_hook(self._enter(path), with_kwargs=True, prepend=True)
            )
            hooks.append(module.register_forward_hook(self._leave, always_call=False))
        try:
            with not_exiting(), without_hooks_of_all(), self, Ending():
                output = self.root(*args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()
        self.outputs = tuple(map(self._of, tensors_in(output, objects=True)))
        self.switched = tuple(
            path
            for path, module in self.root.named_modules()
            if module.training is not modes.get(path, module.training)
        )
        return output

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        before = tensors_in((args, named), objects=True)
        inputs = {id(tensor): self._of(tensor) for tensor in before}
        result = func(*args, **named)
        name = _name(func)
        after = before[:1] if name == "__setitem__" else tensors_in(result, objects=True)
        same = any(id(tensor) in inputs for tensor in after)
        inplace = same and _writes(name, args, named)
        if name == "__get__" or (same and not inplace) or not (after or name in LEAVING):
            return result
        file, line = _caller()
        given = _valued((args, named), inputs)
        op = Op(
            index=len(self.ops),
            name=name,
            path=self._open[-1].path if self._open else "",
            args=given[0],
            kwargs=given[1],
            inputs=tuple(inputs.values()),
            outputs=(),
            grad=torch.is_grad_enabled(),
            inplace=inplace,
            file=file,
            line=line,
        )
        op.outputs = tuple(self._new(tensor, op) for tensor in after)
        old = {value.storage for value in op.inputs}
        self._taken.update(v.storage for v in op.outputs if v.storage and v.storage not in old)
        for value in op.inputs:
            value.readers.append(op)
        self.ops.append(op)
        return result

    def visited(self, path: str) -> list[Visit]:
        """The calls of the module at ``path``."""
        return [visit for visit in self.visits if visit.path == path]

    def inside(self, visit: Visit) -> list[Op]:
        """The operations of one call."""
        return self.ops[visit.start : visit.end]

    def descendants(self, value: Value) -> "set[Value]":
        """The values that were computed from ``value``, itself included."""
        found = {value}
        waiting = [value]
        while waiting:
            for op in waiting.pop().readers:
                for output in op.outputs:
                    if output not in found:
                        found.add(output)
                        waiting.append(output)
        return found

    def ancestors(self, values: tuple[Value, ...]) -> "set[Value]":
        """The values that ``values`` were computed from, themselves included."""
        found = set(values)
        waiting = list(values)
        while waiting:
            maker = waiting.pop().maker
            for value in maker.inputs if maker is not None else ():
                if value not in found:
                    found.add(value)
                    waiting.append(value)
        return found

    def _enter(self, path: str) -> Callable[..., None]:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            inputs = tuple(map(self._of, tensors_in((args, kwargs), objects=True)))
            above = self._open[-1] if self._open else None
            visit = Visit(path, module, above, inputs, len(self.ops))
            self._open.append(visit)
            self.visits.append(visit)

        return enter

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        while self._open:
            visit = self._open.pop()
            visit.end = len(self.ops)
            if visit.module is module:
                visit.done = True
                visit.outputs = tuple(map(self._of, tensors_in(output, objects=True)))
                return

    def _of(self, tensor: Tensor) -> Value:
        with torch._C.DisableTorchFunctionSubclass():
            run, number = tensor.__dict__.get("_chimera_tape", (None, 0))
            if run == self._run:
                return self._values[number]
            self.gaps |= tensor.grad_fn is not None
        value = self._new(tensor)
        value.made = value.storage in self._taken
        return value

    def _new(self, tensor: Tensor, maker: Op | None = None, name: str | None = None) -> Value:
        with torch._C.DisableTorchFunction():
            value = Value(
                tuple(tensor.shape), tensor.dtype, tensor.requires_grad, tensor.grad_fn is None
            )
            value.maker, value.name = maker, name
            if self._numbers and (name is None or name.startswith("input")):
                _measure(value, tensor.detach())
            if tensor.layout == torch.strided and not tensor.is_meta:
                value.storage = tensor.untyped_storage().data_ptr()
            number = len(self._values)
            self._values[number] = value
            tensor.__dict__["_chimera_tape"] = (self._run, number)
        return value


def _name(function: Any) -> str:
    name = str(getattr(function, "__name__", ""))
    if name in ("__get__", "__set__"):
        attribute = str(getattr(getattr(function, "__self__", None), "__name__", ""))
        return attribute if attribute in ("data", "T", "mT", "real", "imag") else name
    return name


def _writes(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a function that returns what it was given has changed it."""
    if name == "requires_grad_":
        return False
    if name.endswith("_") or "out" in kwargs or kwargs.get("inplace") is True:
        return True
    return name in ("relu", "relu6", "elu", "leaky_relu", "silu", "hardtanh") and True in args[1:]


def _valued(given: Any, values: dict[int, Value]) -> Any:
    """Arguments with a ``Value`` for each tensor."""
    kind = type(given)
    if isinstance(given, Tensor):
        return values[id(given)]
    if kind is tuple or kind is list:
        return kind([_valued(part, values) for part in given])
    if kind is dict:
        return {name: _valued(part, values) for name, part in given.items()}
    if kind in _PLAIN:
        return given
    return map_leaves(lambda leaf: values[id(leaf)] if isinstance(leaf, Tensor) else leaf, given)


_PLAIN = frozenset((int, float, bool, str, type(None), torch.dtype, torch.device))


def _measure(value: Value, seen: Tensor) -> None:
    if seen.layout != torch.strided or seen.is_meta or seen.numel() == 0:
        return
    if seen.dtype == torch.float32 and seen.device.type == "cpu" and seen.numel() <= _FEW:
        _measure_few(value, seen)
        return
    if seen.is_complex():
        seen = seen.abs()
    if not seen.is_floating_point():
        if seen.dtype == torch.bool and seen.numel() <= _SMALL:
            value.small = seen.clone()
    else:
        # No number is larger than this one, which is finite unless one of them is not.
        norm = float(vector_norm(seen, dtype=torch.float64))
        _sized(value, norm, seen)
        value.nan = not value.finite and bool(seen.isnan().any())
    if seen.dim():
        last = seen[-1] if seen.is_floating_point() else seen[-1].double()
        squares = float(vector_norm(last, dtype=torch.float64)) ** 2
        value.row = (float(last.sum(dtype=torch.float64)), squares)


def _measure_few(value: Value, seen: Tensor) -> None:
    """The same of a few numbers, for which torch's calls take longer than the sums."""
    numbers = seen.resolve_neg().numpy().ravel().astype(numpy.float64)
    squares = float(numbers @ numbers)
    _sized(value, math.sqrt(squares), seen)
    value.nan = not value.finite and bool(numpy.isnan(numbers).any())
    if seen.dim():
        last = numbers[-(numbers.size // seen.shape[0]) :]
        value.row = (float(last.sum()), float(last @ last))


def _sized(value: Value, norm: float, seen: Tensor) -> None:
    """What the root of the sum of squares tells."""
    value.finite = math.isfinite(norm)
    if value.finite:
        value.size = norm / math.sqrt(seen.numel())
    if 1 < seen.numel() <= _SMALL and not norm < _LEFT_OUT:
        below = seen <= -_LEFT_OUT
        if below.any() and not below.all():
            value.left = below


def _caller() -> tuple[str | None, int | None]:
    """The line of the user's that is running."""
    frame = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if frame.f_code is Tape.run.__code__:
            break
        standard = path.startswith(_PYTHON) and "site-packages" not in path
        if not (standard or path.startswith((_OURS, _TORCH, "<"))):
            return path, frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return None, None
