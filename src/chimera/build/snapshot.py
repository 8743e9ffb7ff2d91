"""A network as it was, so that a build that fails leaves no trace."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from chimera.build.datafree import is_uninitialized
from chimera.build.twin import tensors_of


@contextmanager
def unchanged_on_error(net: nn.Module, values: bool) -> Iterator[None]:
    """Give ``net`` back as it was if the block raises.

    Args:
        values: whether the block may write into tensors, so that a copy of them is kept.
    """
    modules = [(module, module.__class__, _state(module)) for module in net.modules()]
    tensors = [
        (tensor, tensor.__class__, tensor.data, _values(tensor) if values else None)
        for tensor in tensors_of(net)
    ]
    try:
        yield
    except BaseException:
        for module, kind, (attributes, contents) in modules:
            module.__class__ = kind
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for container, content in contents:
                container.clear()
                container.update(content)
        for tensor, tensor_kind, data, saved in tensors:
            tensor.data = data
            tensor.__class__ = tensor_kind
            if saved is not None:
                with torch.no_grad():
                    tensor.data.copy_(saved)
        raise


def _values(tensor: torch.Tensor) -> torch.Tensor | None:
    """A copy of what the tensor holds; None while it waits for its shape."""
    return None if is_uninitialized(tensor) else tensor.data.clone()


def _state(module: nn.Module) -> tuple[dict[str, Any], list[tuple[Any, Any]]]:
    """The module's attributes, and the contents of those that are dicts and sets."""
    attributes = dict(module.__dict__)
    containers = [value for value in attributes.values() if isinstance(value, (dict, set))]
    return attributes, [(container, container.copy()) for container in containers]
