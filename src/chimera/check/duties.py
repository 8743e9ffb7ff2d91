"""The five duties of a module, each judged by itself: what is looked at, and what is said of it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chimera.build.inputs import Inputs
from chimera.check.check import looked
from chimera.check.context import Context
from chimera.check.experiment import trained_by
from chimera.check.finding import Finding
from chimera.check.rule import all_rules
from chimera.paths.nest import tensors_in

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


def failed(error: Exception) -> str:
    """What was raised, and where, on lines that stand below one another."""
    said = [f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())]
    return "\n     ".join("\n".join(said).splitlines())


def gives(output: Any) -> Duty:
    """Whether there is a tensor in what a run returned."""
    tensors = tensors_in(output, objects=True)
    if not tensors:
        return Duty(GIVES, False, f"forward returns {type(output).__name__}, with no tensor in it")
    return Duty(GIVES, True, ", ".join(str(list(tensor.shape)) for tensor in tensors))


def gradients(net: nn.Module, asked: Inputs | None, output: Any, refused: Exception | None) -> Duty:
    """Whether a random sum of the output depends on every parameter and input.

    Args:
        net: what ran.
        asked: the inputs with respect to which it is differentiated; None where it did not run on
            such.
        output: what it returned.
        refused: what it raised on inputs that ask for a gradient.
    """
    ends = trained_by(output)
    named = dict(net.named_parameters())
    sources = {
        f"input {i}": leaf
        for i, leaf in enumerate(asked.leaves() if asked is not None else ())
        if isinstance(leaf, Tensor) and leaf.requires_grad
    }
    sources |= {name: p for name, p in named.items() if p.requires_grad}
    if not sources and refused is None:
        return Duty(GRADIENTS, True, "nothing asks for one: no floating input, no parameter")
    if not ends:
        return Duty(GRADIENTS, False, "no output has a gradient: it was detached, cast or indexed")
    weights = [torch.randn_like(end) for end in ends]
    try:
        found = torch.autograd.grad(ends, list(sources.values()), weights, allow_unused=True)
    except Exception as error:  # noqa: BLE001 - whatever a backward pass raises is the answer
        return Duty(GRADIENTS, False, f"the backward pass raises {failed(error)}")
    missed = tuple(name for name, gradient in zip(sources, found, strict=True) if gradient is None)
    said = [f"none reaches {', '.join(missed)}"] if missed else []
    if refused is not None:
        said.append(f"forward raises on an input that asks for one: {failed(refused)}")
    if said:
        return Duty(GRADIENTS, False, "; ".join(said), missed)
    frozen = [name for name, parameter in named.items() if not parameter.requires_grad]
    reached = f"they reach {len(sources)} tensors"
    return Duty(GRADIENTS, True, f"{reached}; frozen: {', '.join(frozen)}" if frozen else reached)


_LOST = ("unregistered-module", "plain-tensor", "parameter-lost", "shared-by-class")


def registered(net: nn.Module) -> Duty:
    """Whether ``check`` finds no parameter that is kept where torch does not see it."""
    lost = [f for f in _only(_LOST, Context(net)) if f.severity == "error"]
    if lost:
        paths = tuple(dict.fromkeys(finding.path for finding in lost))
        return Duty(REGISTERED, False, "; ".join(finding.message for finding in lost), paths)
    count = sum(1 for _ in net.parameters())
    return Duty(REGISTERED, True, f"{count} parameters")


_UNSET = ("unfilled-memory", "initial-values")


def initialized(context: Context, net: nn.Module, runs: bool) -> Duty:
    """Whether each parameter and buffer has values, and ``check`` finds none that cannot be meant.

    Args:
        net: what is looked at, built where it could be.
        runs: whether forward passed, so that lazy parameters that wait were never reached.
    """
    named = [*net.named_parameters(), *net.named_buffers()]
    waiting = tuple(name for name, tensor in named if nn.parameter.is_lazy(tensor))
    if waiting and not runs:
        return Duty(INITIALIZED, None, f"forward makes them: {', '.join(waiting)}", waiting)
    if waiting:
        return Duty(INITIALIZED, False, f"uninitialized: {', '.join(waiting)}", waiting)
    empty = tuple(name for name, tensor in named if tensor.is_meta)
    if empty:
        return Duty(INITIALIZED, False, f"on the meta device: {', '.join(empty)}", empty)
    wrong = tuple(
        name
        for name, tensor in named
        if (tensor.is_floating_point() or tensor.is_complex())
        and not torch.isfinite(tensor.detach()).all()
    )
    if wrong:
        return Duty(INITIALIZED, False, f"NaN or Inf in {', '.join(wrong)}", wrong)
    found = [f for f in _only(_UNSET, context) if f.severity != "info"]
    if found:
        paths = tuple(dict.fromkeys(finding.path for finding in found))
        return Duty(INITIALIZED, False, "; ".join(finding.message for finding in found), paths)
    return Duty(INITIALIZED, True, "all finite")


def _only(names: tuple[str, ...], context: Context) -> list[Finding]:
    return looked(context, all_rules().keys() - set(names))
