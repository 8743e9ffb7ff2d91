"""Mends for operations: each call fails, or the mend is None."""

import pytest
import torch

from chimera.paths.misfits import misfit

T = torch.rand
CASES = [
    (torch.matmul, (T(2, 3), T(4, 5)), "last axis, 3, and the second's last axis but one, 4"),
    (torch.matmul, (T(2, 3), T(5, 3)), "transposed would fit: .mT"),
    (torch.matmul, (T(2, 3), T(4)), "the second's axis, 4"),
    (torch.matmul, (T(2, 3), torch.tensor(2.0)), "multiply by a number"),
    (torch.mm, (T(2, 3), T(3, 2).double()), "one dtype: .to(torch.float32) or .to(torch.float64)"),
    (torch.Tensor.__rmatmul__, (T(4, 5), T(2, 3)), "last axis, 3, and the second's"),
    (torch.cat, ([T(2, 3), T(1, 3)], 1), "every axis but 1 equal; axis 0 is 2 in place 0, 1 in"),
    (torch.cat, ([T(2, 3), T(2, 4)],), "every axis but 0 equal; axis 1 is 3 in place 0, 4 in"),
    (torch.cat, ([T(2, 3), T(2)],), "give all 2 axes; 1 came in place 1"),
    (torch.cat, ([T(2, 3), T(2, 3)], 2), "choose dim from -2 to 1"),
    (torch.stack, ([T(2, 3), T(2, 4)],), "make every axis equal; axis 1 is 3"),
    (torch.stack, ([T(2), T(2)], 3), "choose dim from -2 to 1"),
    (torch.Tensor.view, (T(2, 3), 2, 2), "6 numbers came, [2, 3]; [2, 2] holds 4"),
    (torch.Tensor.view, (T(2, 3), (4, -1)), "[4, -1] holds multiples of 4"),
    (torch.Tensor.view, (T(2, 3), -1, -1), "at most one size"),
    (torch.Tensor.view, (T(2, 3).t(), 6), "use .reshape"),
    (torch.reshape, (T(2, 3), (5,)), "[5] holds 5"),
    (torch.add, (T(2, 3), T(2, 4)), "axis -1 equal, or 1 in one of them; it is 3 and 4"),
    (torch.Tensor.__rsub__, (T(3, 3), T(2, 3)), "axis -2 equal"),
    (torch.Tensor.mul_, (T(3), T(4)), "axis -1"),
]


def _name(function):
    return function.__name__.strip("_")


@pytest.mark.parametrize(("function", "args", "mend"), CASES)
def test_a_call_that_fails_has_its_mend(function, args, mend):
    with pytest.raises((RuntimeError, IndexError)):
        function(*args)
    assert mend in misfit(_name(function), args, {})


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (torch.matmul, (T(2, 3), T(3, 4)), {}),
        (torch.cat, ([T(2, 3), T(1, 3)],), {"dim": 0}),
        (torch.cat, ([T(2, 3), T(2, 1)],), {"dim": -1}),
        (torch.stack, ([T(2), T(2)],), {"dim": -2}),
        (torch.add, (T(2, 1), T(1, 3)), {}),
        (torch.relu, (T(2),), {}),
        (torch.Tensor.view, (T(2), torch.int32), {}),
    ],
)
def test_a_call_that_passes_has_none(function, args, kwargs):
    function(*args, **kwargs)
    assert misfit(_name(function), args, kwargs) is None
