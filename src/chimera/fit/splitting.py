"""Which sample is in which part of the data: a seeded permutation, cut by fractions."""

import math
from collections.abc import Sequence

from torch import Tensor

from chimera.draws.counter import derive, member_keys, permutations
from chimera.draws.seeds import as_seed

PARTS = ("train", "validation", "test")
_SPLIT = 0x73706C6974  # "split": keeps this permutation apart from the members' own


def rows_of_parts(
    fractions: tuple[float, float, float], samples: int, seed: int
) -> tuple[Tensor, ...]:
    """The rows of the train, validation and test part, int64 ``[k]`` each.

    Raises ValueError where a part would be empty.
    """
    ends = _ends(fractions, samples)
    keys = derive(member_keys(as_seed(seed), [0]), _SPLIT)
    return permutations(keys, samples)[0].tensor_split(ends)


def fractions_of(split: Sequence[float]) -> tuple[float, float, float]:
    """``split`` as fractions of the train, validation and test part.

    Raises ValueError where it is no three fractions that sum to 1.
    """
    try:
        train, validation, test = (float(fraction) for fraction in split)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"split must be three fractions (train, validation, test), got {split!r}"
        ) from error
    fractions = (train, validation, test)
    if not all(fraction > 0 for fraction in fractions):
        raise ValueError(f"split must leave no part empty: every fraction above 0, got {split!r}")
    if not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        raise ValueError(f"split must sum to 1, got {split!r}, which sums to {sum(fractions):g}")
    return fractions


def _ends(fractions: tuple[float, float, float], samples: int) -> tuple[int, int]:
    """The ends of the train and the validation part."""
    train = round(fractions[0] * samples)
    validation = round((fractions[0] + fractions[1]) * samples)
    sizes = (train, validation - train, samples - validation)
    if min(sizes) < 1:
        name = PARTS[sizes.index(min(sizes))]
        raise ValueError(
            f"split={fractions} of {samples} samples leaves the {name} part empty; "
            "give more samples or a larger fraction"
        )
    return train, validation
