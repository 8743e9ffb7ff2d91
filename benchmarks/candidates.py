"""Ways to train a population of PyTorch modules a step at a time: ours, and what others offer.

Each takes the members, the row, inputs and targets, and gives a step: a function of nothing that
trains all members once and returns their losses before it, [members] or a list of numbers. All use
Adam with a learning rate of 1e-3 and torch's defaults; ours has one rate a member.
"""

import copy
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state
from work import Row

import chimera as ch

Step = Callable[[], Any]
Candidate = Callable[[list[nn.Module], Row, Tensor, Tensor], Step]
RATE = 1e-3


def loop(modules: list[nn.Module], row: Row, x: Tensor, y: Tensor) -> Step:
    """One module after the other, each with a fused Adam of its own."""
    optimizers = [torch.optim.Adam(m.parameters(), lr=RATE, fused=True) for m in modules]

    def step() -> list[Tensor]:
        losses = []
        for module, optimizer, inputs, target in zip(modules, optimizers, x, y, strict=True):
            optimizer.zero_grad()
            loss = row.loss(module(inputs), target)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return losses

    return step


def compiled_loop(
    modules: list[nn.Module], row: Row, x: Tensor, y: Tensor, *, batch_linear: bool = False
) -> Step:
    """The losses of all modules in one compiled function, as many calls as modules."""
    optimizer = torch.optim.Adam([p for m in modules for p in m.parameters()], lr=RATE, fused=True)

    def losses() -> Tensor:
        return torch.stack([row.loss(m(a), b) for m, a, b in zip(modules, x, y, strict=True)])

    options: dict[str, Any] = {}
    if batch_linear:
        options = {
            "pre_grad_fusion_options": {"batch_linear": {}},
            "post_grad_fusion_options": {"batch_linear_post_grad": {}},
        }
    return _trained(torch.compile(losses, options=options, dynamic=False), optimizer)


def by_hand(modules: list[nn.Module], row: Row, x: Tensor, y: Tensor) -> Step:
    """``torch.func`` over stacked parameters, one fused Adam, one learning rate for all."""
    parameters, one = _stacked(modules, row)
    optimizer = torch.optim.Adam(parameters.values(), lr=RATE, fused=True)
    return _trained(partial(torch.vmap(one), parameters, x, y), optimizer)


def by_hand_compiled(
    modules: list[nn.Module],
    row: Row,
    x: Tensor,
    y: Tensor,
    *,
    whole: bool = False,
    captured: bool = False,
) -> Step:
    """The same compiled: ``vmap(grad_and_value(...))`` as one graph, and a fused Adam.

    Of the forms that were tried (the forward alone compiled, its sum too, the gradients, the
    optimizer compiled beside them or in the same graph, fused or not, Adam by hand), these two are
    the fastest. A layer of recurrent cells, which ``vmap`` refuses, is written out.

    Args:
        modules, row, x, y: as everywhere.
        whole: the optimizer's step, too, is in the compiled function.
        captured: the whole step in one CUDA graph.
    """
    parameters, one = _stacked(modules, row, row.written())
    optimizer = torch.optim.Adam(parameters.values(), lr=RATE, fused=True, capturable=captured)
    values = {name: parameter.detach() for name, parameter in parameters.items()}
    gradients = torch.vmap(grad_and_value(one))

    def take(find: Callable[..., Any]) -> Tensor:
        found, losses = find(values, x, y)
        for name, parameter in parameters.items():
            parameter.grad = found[name]
        optimizer.step()
        return losses  # type: ignore[no-any-return]

    if whole:
        _begin(optimizer)
        return torch.compile(partial(take, gradients), dynamic=False)
    step = partial(take, torch.compile(gradients, dynamic=False, fullgraph=True))
    return _in_a_graph(step, list(parameters.values()), optimizer) if captured else step


def _stacked(
    modules: list[nn.Module], row: Row, like: nn.Module | None = None
) -> tuple[dict[str, Tensor], Callable[..., Tensor]]:
    """The stacked parameters, and the loss of one member as a function of its own."""
    parameters, _ = stack_module_state(modules)
    skeleton = (like or copy.deepcopy(modules[0])).to("meta")

    def one(parameters: Any, inputs: Tensor, target: Tensor) -> Tensor:
        return row.loss(functional_call(skeleton, parameters, (inputs,)), target)

    return parameters, one


def _begin(optimizer: torch.optim.Optimizer) -> None:
    """Make Adam's state, zeros, so that a compiled step meets the same at each call."""
    (group,) = optimizer.param_groups
    for parameter in group["params"]:
        parameter.grad = torch.zeros_like(parameter)
    with taken_back(group["params"], optimizer):
        optimizer.step()


def _in_a_graph(
    step: Step, parameters: list[Tensor], optimizer: torch.optim.Optimizer
) -> Callable[[], Tensor]:
    """``step`` as one CUDA graph; the steps that prepare it are taken back."""
    with taken_back(parameters, optimizer):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        losses = step()

    def replayed() -> Tensor:
        graph.replay()
        return losses  # type: ignore[no-any-return]

    return replayed


@contextmanager
def taken_back(parameters: list[Tensor], optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Parameters are afterwards as they were, and Adam's state as before its first step."""
    before = [parameter.detach().clone() for parameter in parameters]
    yield
    with torch.no_grad():
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
        for state in optimizer.state.values():
            for value in state.values():
                value.zero_()


def model_batch(modules: list[nn.Module], row: Row, x: Tensor, y: Tensor) -> Step:
    """``modelbatch.ModelBatch``, one Adam over its stacked parameters."""
    from modelbatch import ModelBatch

    batch = ModelBatch(modules, shared_input=False)
    optimizer = torch.optim.Adam(batch.stacked_params.values(), lr=RATE, fused=True)
    return _trained(lambda: torch.vmap(row.loss)(batch(x), y), optimizer)


def ensemble_module(modules: list[nn.Module], row: Row, x: Tensor, y: Tensor) -> Step:
    """``tensordict.nn.EnsembleModule``, one Adam over its parameters."""
    from tensordict import TensorDict
    from tensordict.nn import EnsembleModule, TensorDictModule

    wrapped = TensorDictModule(copy.deepcopy(modules[0]), in_keys=["x"], out_keys=["y"])
    ensemble = EnsembleModule(wrapped, len(modules), expand_input=False)
    stacked, _ = stack_module_state(modules)
    held = ensemble.params_td.flatten_keys(".")
    with torch.no_grad():
        for name, value in stacked.items():
            held[f"module.{name}"].copy_(value)
    optimizer = torch.optim.Adam(ensemble.params_td.parameters(), lr=RATE, fused=True)
    given = TensorDict({"x": x}, batch_size=[len(modules)])
    return _trained(lambda: torch.vmap(row.loss)(ensemble(given)["y"], y), optimizer)


def ours(
    modules: list[nn.Module], row: Row, x: Tensor, y: Tensor, *, engine: str = "eager"
) -> Step:
    """A Stack with a learning rate per member."""
    stack = ch.Stack(modules)
    optimizer = ch.optim.Adam(stack, lr=torch.full((row.members,), RATE))
    step = ch.train_step(stack, row.loss, optimizer, engine=engine)
    inputs, targets = ch.each(x), ch.each(y)
    return lambda: step(inputs, targets)


def _trained(losses: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Step:
    def step() -> Tensor:
        optimizer.zero_grad()
        found = losses()
        found.sum().backward()
        optimizer.step()
        return found.detach()

    return step


def available(engines: tuple[str, ...], compile_loop: int, members: int) -> dict[str, Candidate]:
    """The candidates that are installed.

    Args:
        engines: of ours.
        compile_loop: the most members of a compiled loop, whose compilation grows with them.
        members: of the row.
    """
    found: dict[str, Candidate] = {"loop": loop}
    if members <= compile_loop:
        found["compiled loop"] = compiled_loop
        found["batch_linear"] = partial(compiled_loop, batch_linear=True)
    found["vmap"] = by_hand
    found["vmap compiled"] = by_hand_compiled
    found["step compiled"] = partial(by_hand_compiled, whole=True)
    if torch.cuda.is_available():
        found["vmap graph"] = partial(by_hand_compiled, captured=True)
    if importlib.util.find_spec("modelbatch"):
        found["ModelBatch"] = model_batch
    if importlib.util.find_spec("tensordict"):
        found["Ensemble"] = ensemble_module
    if importlib.util.find_spec("jax") and importlib.util.find_spec("optax"):
        from jax_candidates import forms

        found |= forms()
    for engine in engines:
        found[f"ours {engine}"] = partial(ours, engine=engine)
    return found


@contextmanager
def fresh_compiler() -> Iterator[None]:
    """What torch compiled before does not count against the next row."""
    torch.compiler.reset()
    yield
