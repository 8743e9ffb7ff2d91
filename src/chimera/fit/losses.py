"""The losses and outputs that a task means when nobody says otherwise."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional

from chimera.fit.data import Task

Loss = Callable[[Any, Tensor], Tensor]


def task_loss(task: Task) -> Loss:
    """The task's loss of one member: cross-entropy of scores, or mean squared error.

    It takes the member's output and target of one batch and returns a mean over samples, [].
    """
    return functional.cross_entropy if task == "classification" else mean_squared_error


def mean_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """The mean squared error of ``output`` whose trailing axes of size 1 do not count.

    So that [batch, 1] meets [batch]. Other shapes are an error: broadcasting them would compare
    every output with every target.
    """
    return functional.mse_loss(aligned(output, target), target)


def aligned(output: Tensor, target: Tensor) -> Tensor:
    """``output`` in the shape of ``target``: the same but for trailing axes of size 1.

    Raises:
        ValueError: the shapes differ otherwise.
    """
    if not same_but_trailing_ones(output.shape, target.shape):
        raise ValueError(
            f"the output {list(output.shape)} does not fit the target {list(target.shape)}"
        )
    return output.reshape(target.shape)


def same_but_trailing_ones(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two shapes differ in trailing axes of size 1 at most."""
    shorter, longer = sorted((tuple(one), tuple(other)), key=len)
    return longer[: len(shorter)] == shorter and all(n == 1 for n in longer[len(shorter) :])
