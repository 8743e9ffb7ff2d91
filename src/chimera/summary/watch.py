"""Looking on while a copy of a network runs: calls, operations, costs, and who used whose tensors.

Costs belong to the innermost module that was running: multiply-adds as ``torch.utils.flop_counter``
counts them, and activations: the bytes that autograd keeps for the backward pass, each memory
once, without those of the network's own tensors and inputs.
"""

import inspect
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from chimera.build.datafree import is_uninitialized
from chimera.build.lazy import is_lazy
from chimera.build.twin import tensors_of
from chimera.decide.explore import hide
from chimera.paths.nest import flatten, leaf_names, map_leaves, tensors_in
from chimera.paths.walk import first_paths

hide(__file__)

_MAKER = "_chimera_maker"
_AS_THEY_ARE = {torch.Tensor.__getitem__, torch.Tensor.__setitem__, torch.Tensor.requires_grad_}
_IN_PLACE = {"__setitem__"} | {
    f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")
}
LONGEST = 50_000
"""The most steps of a run that are recorded."""


@dataclass
class Step:
    """A call of a module, an operation, an input or the output of a run."""

    parent: int
    """The index of the call in which it ran, -1 for the root's."""
    path: str | None
    """The path of the module; None for an operation."""
    name: str = ""
    """Of an operation, an input or an output."""
    sources: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    """The steps that made the tensors it took, with their shapes; of operations and outputs."""
    kind: str = "operation"
    """``"input"`` or ``"output"`` of the network, or what runs in between."""


@dataclass
class _Running:
    step: int
    path: str
    before: int
    inner: int = 0
    """Operations counted in the calls inside."""


class Watch:
    """A context around one run of ``net``, a copy that may be changed."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.steps: list[Step] = []
        self.complete = True
        """Whether every step was recorded."""
        self.flops: Counter[str] = Counter()
        """Floating-point operations of each module's own forward, children left out, by path."""
        self.activations: Counter[str] = Counter()
        """Bytes kept for the backward pass, likewise."""
        self._stack: list[_Running] = []
        self._known: dict[int, torch.UntypedStorage] = {}
        self._without_data: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._counter = FlopCounterMode(display=False)
        self._counter.mod_tracker = cast(Any, _NoTracker())
        self._exit = ExitStack()
        for tensor in tensors_of(net):
            if not is_uninitialized(tensor):
                self._know(tensor)
                if not tensor.is_meta:
                    without = tensor.to("meta")
                    self._know(without)
                    self._without_data[id(tensor)] = tensor, without
        for module, path in first_paths(net).items():
            if not isinstance(module, torch.jit.ScriptModule):  # takes no hooks
                self._hook(module, path)

    def __enter__(self) -> "Watch":
        self._exit.enter_context(self._counter)
        self._exit.enter_context(saved_tensors_hooks(self._kept, lambda tensor: tensor))
        self._exit.enter_context(_Operations(self))
        return self

    def __exit__(self, *raised: Any) -> None:
        self._exit.__exit__(*raised)

    def _hook(self, module: nn.Module, path: str) -> None:
        waits = is_lazy(module)

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            own = (*module._parameters.values(), *module._buffers.values()) if waits else ()
            for tensor in own:
                if tensor is not None and not is_uninitialized(tensor):
                    self._know(tensor)
            parent = self._stack[-1].step if self._stack else -1
            self._stack.append(_Running(len(self.steps), path, self._counter.get_total_flops()))
            self._add(Step(parent, path))
            if parent == -1:
                self._inputs(module, args, kwargs)

        def after(module: nn.Module, args: Any, output: Any) -> Any:
            output = self._outputs(output)
            running = self._stack.pop()
            counted = self._counter.get_total_flops() - running.before
            self.flops[path] += counted - running.inner
            if self._stack:
                self._stack[-1].inner += counted
            return output

        module.register_forward_pre_hook(before, with_kwargs=True)
        module.register_forward_hook(after, always_call=True)

    def _add(self, step: Step) -> int:
        if len(self.steps) < LONGEST:
            self.steps.append(step)
            return len(self.steps) - 1
        self.complete = False
        return LONGEST - 1

    def _inputs(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A step for each tensor that the network is called with."""
        for name, value in _named(module.forward, args, kwargs).items():
            leaves, shape = flatten(value)
            for leaf, full in zip(leaves, leaf_names(shape, name), strict=True):
                if isinstance(leaf, torch.Tensor):
                    self._know(leaf)
                    leaf.__dict__[_MAKER] = self._add(Step(0, None, full, kind="input"))

    def _outputs(self, output: Any) -> Any:
        """The output of the running call, in which no tensor came from outside as it is."""
        call = self._stack[-1].step
        aliased = False

        def own(leaf: Any) -> Any:
            nonlocal aliased
            if not isinstance(leaf, torch.Tensor) or self._is_within(maker_of(leaf), call):
                return leaf
            if maker_of(leaf) is None:
                leaf.__dict__[_MAKER] = self._add(Step(call, None))
                return leaf
            aliased = True
            return leaf.view_as(leaf)  # recorded as an operation of this call

        made = map_leaves(own, output)
        if call == 0:
            leaves, shape = flatten(made)
            for leaf, name in zip(leaves, leaf_names(shape, "output"), strict=True):
                if isinstance(leaf, torch.Tensor):
                    source = leaf.__dict__[_MAKER], tuple(leaf.shape)
                    self._add(Step(0, None, name, [source], "output"))
        return made if aliased else output

    def _is_within(self, step: int | None, call: int) -> bool:
        while step is not None and step > call:
            step = self.steps[step].parent
        return step == call

    def operated(self, name: str, tensors: list[torch.Tensor], results: list[torch.Tensor]) -> None:
        """An operation took ``tensors`` and made, or wrote into, ``results``."""
        if not self._stack:
            return
        sources: dict[tuple[int, tuple[int, ...]], None] = {}
        for tensor in tensors:
            maker = maker_of(tensor)
            if maker is not None:
                sources[maker, tuple(tensor.shape)] = None
        if sources:
            step = self._add(Step(self._stack[-1].step, None, name, list(sources)))
            for result in results:
                result.__dict__[_MAKER] = step

    def without_data(self, leaf: Any) -> Any:
        """One and the same copy without data for each tensor of the network that has data."""
        known = self._without_data.get(id(leaf))
        return leaf if known is None else known[1]

    def _know(self, tensor: torch.Tensor) -> None:
        """The memory of ``tensor`` counts as kept."""
        storage = tensor.untyped_storage()
        self._known[id(storage)] = storage

    def _kept(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if self._stack and id(storage) not in self._known:
            self._known[id(storage)] = storage
            self.activations[self._stack[-1].path] += storage.nbytes()
        return tensor.detach()


class _NoTracker:
    """In the place of the counter's own: modules are told apart here, without backward hooks."""

    parents = ("Global",)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *raised: Any) -> None:
        pass


class _Operations(TorchFunctionMode):
    """Tells a ``Watch`` every operation."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        tensors = tensors_in((args, named))
        if not tensors or any(map(is_uninitialized, tensors)):
            return func(*args, **named)
        if func not in _AS_THEY_ARE and any(tensor.is_meta for tensor in tensors):
            args, named = map_leaves(self._watch.without_data, (args, named))
        result = func(*args, **named)
        made = tensors_in(result)
        if _writes(func):
            made.append(tensors[0])
        elif result is not None and any(result is tensor for tensor in tensors):
            if maker_of(result) is None:
                return result
            result = result.view_as(result)  # the tensor that came in stays its maker's
            made = [result]
        if made:
            self._watch.operated(_name(func), tensors, made)
        return result


def maker_of(tensor: torch.Tensor) -> int | None:
    """The step that made ``tensor``, if it goes back to an input or a module."""
    found: int | None = tensor.__dict__.get(_MAKER)
    return found


def _writes(func: Any) -> bool:
    name = str(getattr(func, "__name__", ""))
    return name in _IN_PLACE if name.startswith("__") else name.endswith("_")


def _name(func: Any) -> str:
    name = str(getattr(func, "__name__", type(func).__name__))
    if name == "__get__":
        name = str(getattr(func.__self__, "__name__", name))
    return name.strip("_")


def _named(forward: Callable[..., Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """Arguments by the names of ``forward``'s parameters."""
    try:
        return dict(inspect.signature(forward).bind(*args, **kwargs).arguments)
    except (TypeError, ValueError):
        return {**{str(i): value for i, value in enumerate(args)}, **kwargs}
