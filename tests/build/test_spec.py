import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import chimera as ch
from chimera.build.spec import resolutions


def test_a_spec_holds_sizes_names_and_dtype():
    made = ch.spec("batch", 3, np.int64(5), dtype=torch.int64)
    assert made.shape == ("batch", 3, 5)
    assert type(made.shape[2]) is int
    assert made.dtype == torch.int64
    assert made.free == ("batch",)
    assert repr(made) == "spec('batch', 3, 5, dtype=torch.int64)"
    assert repr(ch.spec()) == "spec()"


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        ((2, -1), ValueError, r"axis 1 must not be negative; got -1"),
        (
            (2.0, 3),
            TypeError,
            r"axis 0 must be a size \(int\) or a name.*got 2.0 of type float",
        ),
        ((2, None), TypeError, r"axis 1 is None; give a free axis a name"),
        ((True, 3), TypeError, r"axis 0 must be a size.*got True of type bool"),
        (
            ((2, 3),),
            TypeError,
            r"axis 0 .*got \(2, 3\); give one argument an axis: spec\(2, 3\)",
        ),
        (("", 3), ValueError, r"axis 0 has an empty name"),
        ((2, 2**63), ValueError, r"axis 1 must be below 2\*\*63; got 9223372036854775808"),
    ],
)
def test_a_wrong_axis_is_named(shape, kind, message):
    with pytest.raises(kind, match=message):
        ch.spec(*shape)


def test_a_wrong_dtype_is_named():
    with pytest.raises(TypeError, match="dtype must be a torch.dtype.*got 'float32'"):
        ch.spec(2, dtype="float32")


@given(
    st.lists(
        st.lists(st.one_of(st.integers(0, 70), st.sampled_from("abcdef")), max_size=5),
        max_size=4,
    )
)
def test_free_axes_get_sizes_of_their_own(shapes):
    specs = [ch.spec(*shape) for shape in shapes]
    names = {axis for shape in shapes for axis in shape if isinstance(axis, str)}
    fixed = {axis for shape in shapes for axis in shape if isinstance(axis, int)}
    for sizes in resolutions(specs):
        assert set(sizes) == names
        assert len(set(sizes.values())) == len(names)
        assert not fixed & set(sizes.values())
        for given_spec in specs:
            assert [
                given_spec.sized(sizes)[i]
                for i, axis in enumerate(given_spec.shape)
                if isinstance(axis, int)
            ] == [axis for axis in given_spec.shape if isinstance(axis, int)]
