"""The contract of a module: the five duties that each must do, looked at one by one.

A module (1) takes its inputs, (2) gives an output, (3) lets gradients reach every parameter and the
input, (4) registers its parameters, and (5) initializes them (Zhang et al., Dive into Deep
Learning, section 6.1, https://d2l.ai/chapter_builders-guide/model-construction.html).
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chimera.build.builder import build
from chimera.build.inputs import Inputs, as_specified
from chimera.build.modes import modes_restored
from chimera.build.spec import Spec
from chimera.build.trial import try_shapes
from chimera.build.twin import replica
from chimera.check.attributes import classes_restored
from chimera.check.check import check
from chimera.check.given import example
from chimera.check.source import users
from chimera.draws.seeds import forked
from chimera.paths.nest import flatten
from chimera.paths.walk import unknown

TAKES = "takes its inputs"
GIVES = "gives an output"
GRADIENTS = "gradients reach every parameter and the input"
REGISTERED = "its parameters are registered"
INITIALIZED = "its parameters are initialized"


@dataclass(frozen=True)
class Duty:
    """One duty of a module.

    Attributes:
        name: what the module must do.
        done: whether it does; None where that could not be found out.
        message: what was seen.
        paths: the parameters, inputs or modules with which it does not.
    """

    name: str
    done: bool | None
    message: str
    paths: tuple[str, ...] = ()

    def __str__(self) -> str:
        sign = {True: "yes", False: "NO", None: "?"}[self.done]
        return f"{sign:<3}  {self.name}: {self.message}"


@dataclass(frozen=True)
class Contract:
    """The five duties of a module, in order; ``str()`` is a line for each."""

    duties: tuple[Duty, ...]

    @property
    def kept(self) -> bool:
        """Whether every duty is done."""
        return all(duty.done for duty in self.duties)

    def __getitem__(self, name: str) -> Duty:
        for duty in self.duties:
            if duty.name == name:
                return duty
        raise unknown(name, (duty.name for duty in self.duties), "duty")

    def __str__(self) -> str:
        return "\n".join(map(str, self.duties))


@modes_restored()
def contract(module: nn.Module | Callable[[], nn.Module], spec: Any) -> Contract:
    """Look whether a module keeps the contract of modules, duty by duty.

    A copy of it is built, runs on random inputs of the shapes of ``spec``, and its output is
    differentiated. The module itself is not changed, nor is any generator.

    Args:
        module: a module, or a class or factory of one without arguments.
        spec: what it takes: ``ch.spec(...)``, ``ch.inputs(...)`` or example tensors.

    Raises:
        TypeError: ``module`` is no module and makes none, or ``spec`` describes no inputs.
    """
    if not isinstance(module, nn.Module) and not callable(module):
        raise TypeError(
            f"module: expected a module, a class or a factory, got {type(module).__name__}"
        )
    inputs = as_specified(spec)
    with forked(0), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = module if isinstance(module, nn.Module) else module()
        if not isinstance(net, nn.Module):
            raise TypeError(f"module: the factory returned {type(net).__name__}, expected a module")
        registered = _registered(net)
        kinds = {kind for part in net.modules() for kind in users(type(part))}
        net = replica(net)
        try:
            with classes_restored(kinds):
                given = _given(net, inputs)
                build(net, Inputs(*_parts(given.map(_specified))), seed=0)
                output = net(*given.args, **given.kwargs)
        except Exception as error:  # noqa: BLE001 - any error of a user's forward is the answer
            return _contract_of_a_failure(error, registered, net)
        tensors = [leaf for leaf in flatten(output)[0] if isinstance(leaf, Tensor)]
        return Contract(
            (
                Duty(TAKES, True, str(inputs)),
                _output(output, tensors),
                _gradients(net, given, tensors),
                registered,
                _initialized(net),
            )
        )


def _parts(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return inputs.args, inputs.kwargs


def _contract_of_a_failure(error: Exception, registered: Duty, net: nn.Module) -> Contract:
    said = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]
    unknown = "could not be tried, since forward raises"
    return Contract(
        (
            Duty(TAKES, False, "\n     ".join("\n".join(said).splitlines())),
            Duty(GIVES, None, unknown),
            Duty(GRADIENTS, None, unknown),
            registered,
            _initialized(net),
        )
    )


def _given(net: nn.Module, inputs: Inputs) -> Inputs:
    """Random inputs of the shapes of ``inputs``; floating ones ask for a gradient."""
    specs = [leaf for leaf in inputs.leaves() if isinstance(leaf, Spec)]
    free = any(spec.free for spec in specs)
    sizes = try_shapes(net, inputs).sizes if free else {}

    def made(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            tensor = leaf.detach().clone()
        elif isinstance(leaf, Spec):
            tensor = example(leaf.sized(sizes), leaf.dtype)
        else:
            return leaf
        return tensor.requires_grad_() if _is_differentiable(tensor) else tensor

    return inputs.map(made)


def _specified(leaf: Any) -> Any:
    return Spec(tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else leaf


def _is_differentiable(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _output(output: Any, tensors: list[Tensor]) -> Duty:
    if not tensors:
        return Duty(GIVES, False, f"forward returns {type(output).__name__}, with no tensor in it")
    return Duty(GIVES, True, ", ".join(str(list(tensor.shape)) for tensor in tensors))


def _gradients(net: nn.Module, given: Inputs, outputs: list[Tensor]) -> Duty:
    if not any(output.requires_grad for output in outputs):
        return Duty(GRADIENTS, False, "no output has a gradient: it was detached, cast or indexed")
    sources = {
        f"input {i}": leaf
        for i, leaf in enumerate(given.leaves())
        if isinstance(leaf, Tensor) and leaf.requires_grad
    }
    sources |= {name: p for name, p in net.named_parameters() if p.requires_grad}
    frozen = [name for name, p in net.named_parameters() if not p.requires_grad]
    ends = [output for output in outputs if output.requires_grad]
    weights = [torch.randn_like(output) for output in ends]
    found = torch.autograd.grad(ends, list(sources.values()), weights, allow_unused=True)
    missed = tuple(name for name, gradient in zip(sources, found, strict=True) if gradient is None)
    if missed:
        return Duty(GRADIENTS, False, f"none reaches {', '.join(missed)}", missed)
    said = f"they reach {len(sources)} tensors"
    return Duty(GRADIENTS, True, f"{said}; frozen: {', '.join(frozen)}" if frozen else said)


_LOST = ("unregistered-module", "plain-tensor", "parameter-lost", "shared-by-class")


def _registered(net: nn.Module) -> Duty:
    lost = [
        finding for finding in check(net) if finding.rule in _LOST and finding.severity == "error"
    ]
    if lost:
        paths = tuple(dict.fromkeys(finding.path for finding in lost))
        return Duty(REGISTERED, False, "; ".join(finding.message for finding in lost), paths)
    count = sum(1 for _ in net.parameters())
    return Duty(REGISTERED, True, f"{count} parameters")


def _initialized(net: nn.Module) -> Duty:
    named = [*net.named_parameters(), *net.named_buffers()]
    waiting = tuple(name for name, tensor in named if nn.parameter.is_lazy(tensor))
    if waiting:
        return Duty(INITIALIZED, False, f"uninitialized: {', '.join(waiting)}", waiting)
    empty = tuple(name for name, tensor in named if tensor.is_meta)
    if empty:
        return Duty(INITIALIZED, False, f"on the meta device: {', '.join(empty)}", empty)
    wrong = tuple(
        name
        for name, tensor in named
        if _is_differentiable(tensor) and not torch.isfinite(tensor.detach()).all()
    )
    if wrong:
        return Duty(INITIALIZED, False, f"NaN or Inf in {', '.join(wrong)}", wrong)
    return Duty(INITIALIZED, True, "all finite")
