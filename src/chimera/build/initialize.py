"""Drawing parameters again, and by schemes, each under the seed of its own path."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from chimera.build.lazy import reset_method
from chimera.draws.seeds import derive, forked
from chimera.paths.patterns import matches
from chimera.paths.walk import first_paths, join

Schemes = Mapping[str, Callable[[torch.Tensor], Any]]


def reset(net: nn.Module, seed: int) -> list[str]:
    """Draw again what modules with ``reset_parameters`` own, children before their parents.

    Returns:
        The paths of the parameters that belong to no such module.
    """
    left: dict[int, str] = {}
    done: set[int] = set()
    for module, path in reversed(first_paths(net).items()):
        again = reset_method(module)
        own = {name: tensor for name, tensor in module._parameters.items() if tensor is not None}
        if again is None:
            left.update((id(tensor), join(path, name)) for name, tensor in own.items())
            continue
        with drawn_on_cpu(module), forked(derive(seed, path)):
            again()
        done.update(id(tensor) for tensor in own.values())
    return sorted(path for key, path in left.items() if key not in done)


def as_schemes(init: Any) -> Schemes:
    """``init`` as schemes by pattern.

    Raises:
        TypeError: if it is no mapping of patterns to functions.
    """
    if init is None:
        return {}
    if not isinstance(init, Mapping):
        raise TypeError(f"init must map patterns of paths to functions; got {init!r}")
    for pattern, scheme in init.items():
        if not isinstance(pattern, str):
            raise TypeError(f"init: a pattern must be a str such as '**.weight'; got {pattern!r}")
        if not callable(scheme):
            raise TypeError(
                f"init[{pattern!r}] must be a function of a tensor, such as "
                f"nn.init.kaiming_normal_; got {scheme!r}"
            )
    return init


def apply_schemes(net: nn.Module, schemes: Schemes, seed: int) -> None:
    """Call, for each parameter, the last scheme whose pattern matches its path.

    Raises:
        ValueError: if patterns match nothing.
    """
    used = set()
    paths = [path for path, _ in net.named_parameters()]
    for pattern in schemes:
        if any(matches(pattern, path) for path in paths):
            used.add(pattern)
    unused = [pattern for pattern in schemes if pattern not in used]
    if unused:
        raise ValueError(
            f"init: no parameter matches {', '.join(map(repr, unused))}; the parameters are "
            f"{_some(paths)}"
        )
    modules = {path: module for module, path in first_paths(net).items()}
    for path, parameter in net.named_parameters():
        chosen = [pattern for pattern in schemes if matches(pattern, path)]
        if not chosen:
            continue
        owner = modules[path.rpartition(".")[0]]
        with drawn_on_cpu(owner), torch.no_grad(), forked(derive(seed, path)):
            try:
                schemes[chosen[-1]](parameter)
            except Exception as error:
                error.add_note(
                    f"in init[{chosen[-1]!r}] for {path}, a parameter {list(parameter.shape)}"
                )
                raise


def _some(paths: list[str]) -> str:
    shown = ", ".join(paths[:10])
    return shown if len(paths) <= 10 else f"{shown}, ... ({len(paths)} in all)"


@contextmanager
def drawn_on_cpu(module: nn.Module) -> Iterator[None]:
    """Move what ``module`` and its children hold to the CPU for the block, and back after it."""
    held = [*module.parameters(), *module.buffers()]
    placed = [(tensor, tensor.data.device) for tensor in held]
    placed = [(tensor, device) for tensor, device in placed if device.type not in ("cpu", "meta")]
    for tensor, _ in placed:
        tensor.data = tensor.data.to("cpu")
    try:
        yield
    finally:
        for tensor, device in placed:
            tensor.data = tensor.data.to(device)
