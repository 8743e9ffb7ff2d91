"""Columns of the members' table that the caller gives: hyper-parameters of the modules."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

Columns = dict[str, list[Any]]
RESERVED = ("member", "group", "lr", "died")
_FIGURES = ("train_", "validation_", "test_")


def own_columns(given: Mapping[str, Sequence[Any]] | None, members: int) -> Columns:
    """The columns, checked.

    Raises:
        TypeError: ``given`` is no mapping of names to values.
        ValueError: a column has not one value a member, or a name that the table has already.
    """
    columns = {}
    if not isinstance(given, Mapping | None):
        raise TypeError(f"hyperparameters must map names to values, got {given!r:.60}")
    for name, values in (given or {}).items():
        if not isinstance(name, str):
            raise TypeError(f"hyperparameters: a name must be a string, got {name!r:.60}")
        if isinstance(values, str) or not isinstance(values, Sequence | Tensor):
            raise TypeError(f"hyperparameters: {name} must be a list, got {values!r:.60}")
        if len(values) != members:
            raise ValueError(
                f"hyperparameters: {name} needs one value for each of the {members} members, "
                f"{len(values)} came"
            )
        if name in RESERVED or name.startswith(_FIGURES):
            raise ValueError(f"hyperparameters: the table has a column {name} of its own")
        columns[name] = values.tolist() if isinstance(values, Tensor) else list(values)
    return columns
