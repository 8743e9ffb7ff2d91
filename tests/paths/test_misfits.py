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
    (torch.Tensor.view, (T(2, 3, 30), 2, 3, 4, -1), "the last axis, 30, is no multiple of 4"),
    (torch.Tensor.view, (T(2, 3), -1, -1), "at most one size"),
    (torch.Tensor.view, (T(2, 3).t(), 6), "use .reshape"),
    (torch.reshape, (T(2, 3), (5,)), "[5] holds 5"),
    (torch.add, (T(2, 3), T(2, 4)), "axis -1 equal, or 1 in one of them; it is 3 and 4"),
    (torch.Tensor.__rsub__, (T(3, 3), T(2, 3)), "axis -2 equal"),
    (torch.Tensor.mul_, (T(3), T(4)), "axis -1"),
    (
        torch.nn.functional.linear,
        (T(2, 6), T(3, 5)),
        "input's last axis, [6], and the weight's, [5]",
    ),
    (torch.nn.functional.linear, (T(2, 5), T(3, 5).double()), "give both one dtype"),
    (torch.addmm, (T(3), T(2, 6), T(5, 3)), "last axis, 6, and the second's last axis but one, 5"),
    (torch.baddbmm, (T(2, 2), T(2, 2), T(2, 2)), "give baddbmm 3 axes each"),
    (
        torch.where,
        (T(2, 6) > 0, T(2, 6), T(5)),
        "axis -1 equal, or 1 in one of them; it is 6 and 5",
    ),
    (torch.Tensor.__getitem__, (T(2, 6), (slice(None), 7)), "axis 1 has 6 entries: choose from -6"),
    (torch.Tensor.__getitem__, (T(2, 6), (Ellipsis, -7)), "-6 to 5; -7 came"),
    (torch.Tensor.__getitem__, (T(2, 6), (0, None, 0, 0)), "at most 2 indices; 3 came for [2, 6]"),
    (torch.Tensor.__getitem__, (T(2, 6), T(3) > 0), "give a mask of [2] there"),
    (torch.Tensor.__getitem__, (T(2, 6), (slice(None), T(2, 6) > 0)), "at most 2 indices; 3 came"),
    (torch.Tensor.__getitem__, (T(2, 6), T(2)), "whole numbers or a mask: .long() or .bool()"),
    (
        torch.Tensor.__getitem__,
        (T(2, 6), (torch.tensor([0, 1]), torch.tensor([0, 1, 2]))),
        "one shape, [2] and [3] came; [:, None] on the first pairs all",
    ),
    (torch.Tensor.__setitem__, (T(2, 6), (slice(None), 0), T(5)), "give a value of [2]"),
    (torch.Tensor.__setitem__, (T(2, 6), 4, T(6)), "axis 0 has 2 entries"),
    (torch.gather, (T(2, 6), 1, torch.zeros(2).long()), "give the index 2 axes"),
    (
        torch.gather,
        (T(2, 6), 1, torch.zeros(9, 2).long()),
        "axis 0 of the index is 9, and may be 2",
    ),
    (torch.gather, (T(2, 6), 1, T(2, 2)), "whole numbers: .long()"),
    (torch.gather, (T(2, 6), 3, torch.zeros(2, 2).long()), "choose dim from -2 to 1"),
    (torch.index_select, (T(2, 6), 1, torch.zeros(1, 2).long()), "an index of one axis; 2 came"),
    (torch.take_along_dim, (T(2, 6), torch.zeros(2).long(), 1), "give the index 2 axes"),
    (
        torch.einsum,
        ("bi,ij->bj", T(2, 6), T(5, 3)),
        "make 'i' equal: 6 on axis 1 of operand 0, 5 on",
    ),
    (torch.einsum, ("bi,ij->bj", [T(2, 6), T(5, 3)]), "make 'i' equal"),
    (
        torch.einsum,
        ("b...i,...ij", T(2, 4, 6), T(4, 5, 3)),
        "6 on axis 2 of operand 0, 5 on axis 1",
    ),
    (torch.einsum, ("bij,ij->bj", T(2, 6), T(6, 3)), "'bij' names 3 axes of operand 0, [2, 6]"),
    (torch.einsum, ("bi,ij->bj", T(2, 6)), "names 2 inputs; 1 came"),
    (torch.einsum, ("bi,ij->bk", T(2, 6), T(6, 3)), "'k' of the output stands in no input"),
    (torch.einsum, ("bi,ij->bjj", T(2, 6), T(6, 3)), "name 'j' once in the output"),
    (torch.einsum, ("bi,ij->bj", T(2, 6), T(6, 3).double()), "give both one dtype"),
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
