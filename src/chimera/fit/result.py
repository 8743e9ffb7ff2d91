"""What a run leaves: the trained stack, a table with a row per member, and the figures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from torch import nn

from chimera.fit.settings import Settings
from chimera.stack import Stack

Row = dict[str, Any]


@dataclass(frozen=True, repr=False)
class Result:
    """The result of ``ch.fit``.

    Attributes:
        stack: the trained members.
        table: one row per member, in the stack's order: ``member`` (its id), ``group``, its
            hyper-parameters, and its final loss and metric on each part, as ``test_accuracy``.
            A member that broke down has NaN figures.
        epochs: one record per epoch: ``epoch``, and for each figure the list over members.
            ``train_loss`` is the mean over the epoch's batches, taken while the member learns.
        ensemble: the test metric of all members together, those that broke down left out: of
            their averaged probabilities, or of their averaged outputs in a regression; None
            where outputs cannot be averaged.
        seconds: how long the run took, in seconds.
        train_seconds: how much of it went to training steps, evaluation left out.
        settings: what the run was told.
    """

    stack: Stack
    table: list[Row]
    epochs: list[Row]
    ensemble: float | None
    seconds: float
    train_seconds: float
    settings: Settings

    @property
    def metric(self) -> str:
        """The metric's name, as it stands in the table's columns behind ``test_``."""
        return self.settings.metric.name

    @property
    def ranking(self) -> list[int]:
        """Positions of the members, best first; those that broke down are left out.

        By validation metric, ties by validation loss; by validation loss alone where the metric
        is a user's own.
        """
        return ranking(self.table, self.metric, self.settings.metric.higher_is_better)

    def best(self, k: int = 1) -> list[nn.Module]:
        """The ``k`` best members by validation, best first: plain modules, in evaluation mode.

        Raises:
            TypeError: ``k`` is no int.
            ValueError: ``k`` is below 1 or above the number of members with finite figures.
        """
        if not isinstance(k, int) or isinstance(k, bool):
            raise TypeError(f"best: k must be an int, got {k!r}")
        ranked = self.ranking
        if not 1 <= k <= len(ranked):
            broken = len(self.table) - len(ranked)
            why = f"; {broken} members have no finite figures" if broken else ""
            raise ValueError(f"best: k must be between 1 and {len(ranked)}, got {k}{why}")
        return [self.stack[position].eval() for position in ranked[:k]]

    @property
    def summary(self) -> Row:
        """The test metric: of the best member by validation, of the median and of the ensemble.

        Keys: ``metric`` (its name), ``best_member`` (its id), ``best``, ``median``, ``ensemble``,
        and ``broken``, how many members have no finite figures and count nowhere.
        """
        ranked = self.ranking
        figures = [self.table[position][f"test_{self.metric}"] for position in ranked]
        figures = [figure for figure in figures if math.isfinite(figure)]
        first = self.table[ranked[0]] if ranked else None
        return {
            "metric": self.metric,
            "best_member": first["member"] if first else None,
            "best": first[f"test_{self.metric}"] if first else None,
            "median": median(figures) if figures else None,
            "ensemble": self.ensemble,
            "broken": len(self.table) - len(ranked),
        }

    def __repr__(self) -> str:
        summary = self.summary
        shares = ", ".join(
            f"{name} {_shown(summary[name])}" for name in ("best", "median", "ensemble")
        )
        broken = f"; {summary['broken']} broke down" if summary["broken"] else ""
        return (
            f"Result({len(self.table)} members, {len(self.epochs)} epochs, "
            f"{self.seconds:.1f} s; test {self.metric}: {shares}{broken})"
        )


def ranking(table: Sequence[Row], metric: str, higher_is_better: bool | None) -> list[int]:
    """Positions in ``table`` by validation, best first, without rows whose figures are not finite.

    ``higher_is_better`` None ranks by the loss alone.
    """
    loss, figure = "validation_loss", f"validation_{metric}"
    finite = [
        position
        for position, row in enumerate(table)
        if all(math.isfinite(row[key]) for key in ("train_loss", loss, figure))
    ]
    sign = {True: -1, False: 1, None: 0}[higher_is_better]
    return sorted(finite, key=lambda p: (sign * table[p][figure], table[p][loss], p))


def _shown(figure: float | None) -> str:
    return "none" if figure is None else f"{figure:.4f}"
