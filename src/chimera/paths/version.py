"""Whether a tensor was written to: torch's version counter, reached here alone."""

from collections.abc import Iterable

from torch import Tensor


def version(tensor: Tensor) -> int | None:
    """How often ``tensor`` was changed in place; None for one that does not count it.

    Tensors made under ``torch.inference_mode`` do not.
    """
    return None if tensor.is_inference() else tensor._version


def versions(tensors: Iterable[Tensor]) -> list[int]:
    """The versions of tensors none of which was made under ``torch.inference_mode``."""
    return [tensor._version for tensor in tensors]


def unchanged(tensor: Tensor, since: int | None) -> bool:
    """Whether ``tensor`` surely was not changed in place since its version was ``since``."""
    return since is not None and version(tensor) == since
