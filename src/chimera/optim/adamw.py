"""AdamW for the members of a stack: Adam whose weight decay does not pass through the means."""

from collections.abc import Iterable
from typing import Any, ClassVar

from chimera.optim.adam import Adam
from chimera.optim.groups import Stacked


class AdamW(Adam):
    """AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101), as ``torch.optim.AdamW`` for each.

    Args:
        stack, lr, betas, eps, groups: as for Adam.
        weight_decay: a parameter loses ``lr * weight_decay`` of itself in each step, before it
            moves.

    Raises:
        TypeError, ValueError: as Adam does.
    """

    decoupled: ClassVar[bool] = True

    def __init__(
        self,
        stack: Stacked,
        lr: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-8,
        weight_decay: Any = 1e-2,
        *,
        groups: Iterable[dict[str, Any]] = (),
    ) -> None:
        super().__init__(stack, lr, betas, eps, weight_decay, groups=groups)
