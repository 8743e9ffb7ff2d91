"""Mends for indices and einsum: there is one where torch refuses, and none where it does not."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from chimera.paths.indexing import einsum_misfit, index_misfit

SIZES = st.lists(st.integers(1, 3), min_size=1, max_size=3)
ONE = st.one_of(
    st.integers(-4, 3),
    st.just(slice(None)),
    st.just(Ellipsis),
    st.none(),
    st.lists(st.integers(1, 3), min_size=1, max_size=2).map(lambda s: torch.ones(s) > 0),
    st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=2).map(
        lambda s: torch.zeros(s).long()
    ),
)


def refused(call, *args) -> bool:
    try:
        call(*args)
    except (RuntimeError, IndexError):
        return True
    return False


@given(SIZES, st.lists(ONE, min_size=1, max_size=3))
def test_an_index_has_a_mend_where_it_is_refused(sizes, keys):
    if keys.count(Ellipsis) > 1 or sum(isinstance(key, torch.Tensor) for key in keys) > 1:
        return
    tensor, key = torch.rand(sizes), tuple(keys)
    assert (index_misfit(tensor, key) is not None) is refused(tensor.__getitem__, key)


LABELS = st.text("ijk", min_size=1, max_size=3)


@given(
    st.lists(st.tuples(LABELS, SIZES), min_size=1, max_size=3),
    st.one_of(st.none(), st.text("ijk", max_size=3)),
)
def test_an_equation_has_a_mend_where_it_is_refused(parts, output):
    equation = ",".join(labels for labels, _ in parts) + ("" if output is None else f"->{output}")
    operands = [torch.rand(sizes) for _, sizes in parts]
    told = einsum_misfit((equation, *operands))
    assert (told is not None) is refused(torch.einsum, equation, *operands)


def test_an_equation_as_lists_of_numbers_is_left_to_torch():
    assert einsum_misfit((torch.ones(2), [0], torch.ones(3), [0])) is None
