"""Constant: a tensor that belongs to a network and does not train.

Contract: one buffer, ``value``: it moves, casts and is saved with the network.
"""

from typing import Any

from torch import Tensor, nn

from chimera.blocks.checked import described


class Constant(nn.Module):
    """A tensor that takes no gradient.

    ``self.w = ch.Constant(torch.rand(20, 20))``, then ``x @ self.w()``. In a chain or a Parallel it
    takes any input, and gives the tensor whatever that was.

    Args:
        tensor: any tensor; it is copied, and its gradient history left behind. ``.to(dtype)``,
            ``.double()`` and ``.half()`` cast it when it is floating or complex.

    Raises:
        TypeError: not a tensor.
    """

    value: Tensor

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"Constant: takes a tensor; got {described(tensor)}; make one with torch.as_tensor."
            )
        self.register_buffer("value", tensor.detach().clone())

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """The tensor itself, not a copy: what works on it in place changes it."""
        return self.value

    def extra_repr(self) -> str:
        dtype = str(self.value.dtype).removeprefix("torch.")
        return f"{tuple(self.value.shape)}, {dtype}"
