"""What complete epochs recorded: figures of the members that are here, and of all members.

An epoch's figures are ``[3, members]`` in float64: the loss of training, the loss of validation,
and the metric of validation.
"""

import torch
from torch import Tensor

from chimera.fit.result import Row
from chimera.fit.together import Alone


class Recorded:
    """The figures of a run's complete epochs.

    Args:
        metric: its name.
        members: how many are here.
        together: puts figures together where other ranks hold more members.
    """

    def __init__(self, metric: str, members: int, together: Alone) -> None:
        self._metric, self._members, self._together = metric, members, together
        self._here: list[Tensor] = []
        self._whole: list[Tensor] = []

    def add(self, figures: Tensor) -> None:
        """Record an epoch's ``figures`` of the members here; other ranks add theirs meanwhile."""
        self._whole.append(self._together.epoch(figures))
        self._here.append(figures)

    def row(self, epoch: int) -> Row:
        """What an epoch, counted from 1, recorded: each figure a list over members."""
        names = ("train_loss", "validation_loss", f"validation_{self._metric}")
        figures = self._whole[epoch - 1].tolist()
        return {"epoch": epoch, **dict(zip(names, figures, strict=True))}

    @property
    def last(self) -> Tensor:
        """The figures of all members in the last complete epoch ``[3, members]``."""
        return self._whole[-1]

    @property
    def here(self) -> Tensor:
        """The figures of the members here ``[members, epochs, 3]``."""
        return _by_member(self._here, self._members)

    @property
    def whole(self) -> Tensor:
        """The figures of all members ``[members, epochs, 3]``."""
        return _by_member(self._whole, self._whole[0].shape[1] if self._whole else self._members)

    def restore(self, here: Tensor, epochs: int) -> None:
        """Go on from the figures ``here`` of ``epochs`` complete ones.

        Raises ValueError where they are of another number of epochs.
        """
        figures = here.permute(1, 2, 0).contiguous()
        if len(figures) != epochs:
            raise ValueError("its figures are not those of the epochs that it counts")
        self._here = list(figures)
        self._whole = list(
            self._together.figures(figures.flatten(0, 1)).unflatten(0, (epochs, 3))
            if epochs
            else figures
        )


def _by_member(epochs: list[Tensor], members: int) -> Tensor:
    """Figures of each epoch ``[figures, members]`` as ``[members, epochs, figures]``."""
    if not epochs:
        return torch.empty(members, 0, 3, dtype=torch.float64)
    return torch.stack(epochs).permute(2, 0, 1).contiguous()
