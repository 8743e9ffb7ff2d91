"""`make shapes` sees a wrong shape or dtype, and lets wrong types of other arguments through."""

import sys
from pathlib import Path

import pytest
import torch
from jaxtyping import Float, Int64, TypeCheckError, jaxtyped
from torch import Tensor

sys.path.append(str(Path(__file__).parent / "shape_checking"))

from shape_checker import checked


@jaxtyped(typechecker=checked)
def rows(
    x: Float[Tensor, "n k"], index: Int64[Tensor, " m"] | None, scale: int
) -> Float[Tensor, "m k"]:
    return x if index is None else x[index][: scale or None]


def test_what_fits_passes_and_other_hints_are_not_looked_at() -> None:
    assert rows(torch.rand(3, 2), torch.tensor([0, 2]), False).shape == (2, 2)
    assert rows(torch.rand(3, 2), None, scale="wide").shape == (3, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("x", "index", "scale"),
    [
        (torch.rand(3), torch.tensor([0]), 0),
        (torch.rand(3, 2), torch.rand(2), 0),
        (torch.rand(3, 2), torch.tensor([0, 2]), 1),
    ],
    ids=["an axis is missing", "another dtype", "another length comes back"],
)
def test_what_does_not_fit_is_refused(x: Tensor, index: Tensor, scale: int) -> None:
    with pytest.raises(TypeCheckError):
        rows(x, index, scale)


def test_every_room_that_annotates_shapes_is_checked() -> None:
    root = Path(__file__).parents[1]
    annotated = {
        f"chimera.{path.relative_to(root / 'src' / 'chimera').parts[0]}"
        for path in (root / "src" / "chimera").rglob("*.py")
        if "from jaxtyping import" in path.read_text()
    }
    (line,) = (x for x in (root / "Makefile").read_text().splitlines() if x.startswith("SHAPED"))
    assert annotated == set(line.removeprefix("SHAPED := ").split(","))
