from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch

import chimera as ch
from chimera.build.inputs import Inputs, as_inputs, as_specified
from chimera.paths.nest import flatten, map_leaves

Pair = namedtuple("Pair", "left right")


@dataclass(frozen=True)
class Sample:
    image: object
    label: object


def test_anything_but_inputs_is_the_single_positional_input():
    value = (ch.spec(2, 20), ch.spec(3))
    assert as_inputs(value) == Inputs((value,), {})
    both = ch.inputs(1, mask=2)
    assert as_inputs(both) is both
    assert (both.args, both.kwargs) == ((1,), {"mask": 2})
    assert str(ch.inputs(ch.spec(2), mask=ch.spec(3))) == "inputs(spec(2), mask=spec(3))"


def test_map_keeps_containers_and_their_order():
    nest = ch.inputs(
        Pair(1, [2, 3]),
        OrderedDict(b=(4,), a=5),
        Sample({"x": 6}, 7),
        mask=[8],
    )
    found = nest.map(lambda leaf: leaf * 10)
    assert list(nest.leaves()) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert list(found.leaves()) == [10, 20, 30, 40, 50, 60, 70, 80]
    assert found.args[0] == Pair(10, [20, 30])
    assert type(found.args[1]) is OrderedDict
    assert list(found.args[1]) == ["b", "a"]
    assert found.args[2] == Sample({"x": 60}, 70)
    assert nest.args[2] == Sample({"x": 6}, 7)


def test_a_spec_is_a_leaf():
    made = ch.spec(2, 20)
    assert flatten([made])[0] == [made]
    assert map_leaves(lambda leaf: leaf.shape, {"x": made}) == {"x": (2, 20)}


@pytest.mark.parametrize("shape", [(2, 20), [2, "batch"], torch.Size([2, 20]), 20, "batch", ()])
def test_a_bare_shape_is_no_specification(shape):
    with pytest.raises(TypeError, match=r"spec must be ch.spec\(...\).*write ch.spec\("):
        as_specified(shape)


def test_nothing_is_no_specification():
    with pytest.raises(TypeError, match="got None"):
        as_specified(None)
    assert as_specified(ch.inputs()) == Inputs()
