"""While and Cond in a graph of ``torch.export``: as ``torch.while_loop`` and ``torch.cond``.

Contract: the graph computes what the blocks compute alone. Steps work on copies of their own, so
that they may change in place what they are given. What they change of a module's own, a buffer's
running mean say, has no place in such a graph: it is refused, by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from chimera.blocks.checked import described, one_element
from chimera.paths.bind import reached
from chimera.paths.nest import flatten, map_leaves

try:
    from torch import while_loop
except ImportError:  # before torch 2.13 or so it is not public
    from torch._higher_order_ops import while_loop

if TYPE_CHECKING:
    from chimera.blocks.control import Cond, While

Step = Callable[..., Any]


def loop(block: While, x: Any) -> Any:
    """``block(x)`` as one ``torch.while_loop``.

    Raises:
        ValueError: a step changes a buffer or parameter.
        Exception: torch's own, where the state changes its shape or dtype from turn to turn.
    """
    leaves = flatten(x)[0]
    if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise TypeError(
            f"While: the state is {described(x)}; to be exported it is a tensor or nested tensors."
        )
    steps = {"condition": block.condition, "body": block.body}
    _refuse_norms("While", steps)

    def goes_on(turns: Tensor, state: Any) -> Tensor:
        answer: Tensor = predicate("While", block.condition(_copied(state)))
        return (turns < block.limit) & answer

    def turn(turns: Tensor, state: Any) -> tuple[Tensor, Any]:
        return turns + 1, _copied(block.body(_copied(state)))

    start = torch.zeros((), dtype=torch.int64, device=leaves[0].device)
    with _Named("While", steps, ((x,), {})):
        # Without a copy torch 2.13 does not trace a cond behind it: the result of a loop whose
        # start was computed is a view of what has no size of its own.
        return _copied(while_loop(goes_on, turn, (start, x))[1])


def choice(block: Cond, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """``block(*inputs, **named)`` as one ``torch.cond``.

    Raises:
        ValueError: a step changes a buffer or parameter.
        Exception: torch's own, where the two branches give other shapes or dtypes.
    """
    steps = {"condition": block.condition, "then": block.then, "otherwise": block.otherwise}
    _refuse_norms("Cond", steps)
    answer = block.condition(*_copied(inputs), **_copied(named))
    if isinstance(answer, bool):
        taken = block.then if answer else block.otherwise
        return taken(*inputs, **named)
    leaves, shape = flatten((inputs, named))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def branch(step: Step) -> Callable[..., Any]:
        def run(*tensors: Tensor) -> Any:
            given = list(leaves)
            for place, tensor in zip(places, tensors, strict=True):
                given[place] = tensor.clone()
            args, kwargs = shape.rebuild(given)
            return _copied(step(*args, **kwargs))

        return run

    tensors = tuple(leaves[place] for place in places)
    with _Named("Cond", steps, (inputs, named)):
        return torch.cond(
            predicate("Cond", answer), branch(block.then), branch(block.otherwise), tensors
        )


def predicate(kind: str, answer: Any) -> Any:
    """A condition's answer as a tensor of one bool without axes, or as a bool of shapes."""
    if isinstance(answer, bool):
        return torch.full((), answer)
    if isinstance(answer, torch.SymBool):
        return answer
    return one_element(kind, answer).reshape(()).to(torch.bool)


def _copied(value: Any) -> Any:
    return map_leaves(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, value)


def _refuse_norms(kind: str, steps: dict[str, Any]) -> None:
    """Refuse norms that would write their running statistics, before anything is traced."""
    for step, path, module in _modules(steps):
        if isinstance(module, _NormBase) and module.training and module.running_mean is not None:
            raise ValueError(_refusal(kind, step, [_at(path, "running_mean")]))


def _refusal(kind: str, step: str, names: list[str]) -> str:
    changed = " and ".join(f"{step}.{name}" for name in names)
    return (
        f"{kind}: {step} changes {changed}, and an exported {kind} keeps nothing of its own; hand "
        "it through the state, or, for the statistics of a norm, call .eval() before torch.export."
    )


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _modules(steps: dict[str, Any]) -> Iterator[tuple[str, str, nn.Module]]:
    """Every module that a step is, has, or as a function uses: step, path, module."""
    for step, value in steps.items():
        if isinstance(value, nn.Module):
            for path, module in value.named_modules():
                yield step, path, module
        else:
            for module in reached(value):
                yield step, type(module).__name__, module


class _Named:
    """Says by name which tensor a step changes, where torch refuses a step that changes one.

    Steps run once more, on copies of what is theirs.
    """

    def __init__(self, kind: str, steps: dict[str, Any], arguments: Any) -> None:
        self._kind, self._steps, self._arguments = kind, steps, arguments

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: Any) -> None:
        if not isinstance(error, RuntimeError) or torch.compiler.is_dynamo_compiling():
            return
        for step, value in self._steps.items():
            changed = _changed(step, value, self._arguments)
            if changed:
                raise ValueError(_refusal(self._kind, step, changed)) from error
        if self._kind == "While":
            state = self._arguments[0][0]
            _refuse_other_answer(self._steps["condition"], state, error)
            _refuse_other_state(self._steps["body"], state, error)


def _refuse_other_answer(condition: Step, state: Any, error: Exception) -> None:
    """Say what a condition gives that is no answer."""
    try:
        with torch.no_grad():
            answer = condition(_copied(state))
    except Exception:  # noqa: BLE001 - then the error that is there says more
        return
    try:
        predicate("While", answer)
    except (TypeError, ValueError) as wrong:
        raise wrong from error


def _refuse_other_state(body: Step, state: Any, error: Exception) -> None:
    """Say what becomes of a state that does not stay what it is."""
    try:
        with torch.no_grad():
            after = body(_copied(state))
    except Exception:  # noqa: BLE001 - then the error that is there says more
        return
    was, becomes = _shown(state), _shown(after)
    if was != becomes:
        raise ValueError(
            f"While: body makes {becomes} of {was}; the state of an exported While keeps its "
            "shapes and dtypes."
        ) from error


def _shown(value: Any) -> str:
    said = (
        f"{str(leaf.dtype).removeprefix('torch.')} {tuple(leaf.shape)}"
        if isinstance(leaf, Tensor)
        else repr(leaf)
        for leaf in flatten(value)[0]
    )
    return ", ".join(said)


def _changed(step: str, value: Any, arguments: Any) -> list[str]:
    """The names of the buffers and parameters that a call of a step writes or replaces."""
    places = [(path, module) for _, path, module in _modules({step: value})]
    before = [(dict(module._buffers), dict(module._parameters)) for _, module in places]
    try:
        copies = [_on_copies(module) for _, module in places]
        with torch.no_grad():
            args, kwargs = _copied(arguments)
            value(*args, **kwargs)
        return [
            _at(path, name)
            for (path, module), held in zip(places, copies, strict=True)
            for name, (tensor, version) in held.items()
            if module._buffers.get(name, module._parameters.get(name)) is not tensor
            or tensor._version != version
        ]
    except Exception:  # noqa: BLE001 - then the error that is there says more
        return []
    finally:
        for (_, module), (buffers, parameters) in zip(places, before, strict=True):
            module._buffers.update(buffers)
            module._parameters.update(parameters)


def _on_copies(module: nn.Module) -> dict[str, tuple[Tensor, int]]:
    """Put copies in the places of a module's own tensors: by name the copy and its version."""
    held: dict[str, tuple[Tensor, int]] = {}
    for registry in (module._buffers, module._parameters):
        for name, tensor in registry.items():
            if tensor is not None:
                copy = tensor.detach().clone()
                held[name] = copy, copy._version
                registry[name] = copy  # type: ignore[assignment]
    return held
