"""Whether a tensor has hooks of its own: torch's names for them are reached here alone."""

from torch import Tensor


def has_hooks(tensor: Tensor) -> bool:
    """Whether a gradient that reaches ``tensor`` fires a hook."""
    return bool(tensor._backward_hooks) or bool(tensor._post_accumulate_grad_hooks)
