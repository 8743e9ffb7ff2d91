"""Patterns over paths."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.paths.patterns import matches

NAMES = st.lists(st.text("abc_1", min_size=1, max_size=4), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.b.c", False),
        ("*", "a.b", False),
        ("*.b", "a.b", True),
        ("**", "a.b.c", True),
        ("**.bias", "bias", True),
        ("**.bias", "a.b.bias", True),
        ("**.bias", "a.bias.weight", False),
        ("a.**.w", "a.w", True),
        ("a.**.w", "b.a.w", False),
        ("**.conv*.weight", "net.0.conv1.weight", True),
        ("**.conv?.weight", "net.0.conv12.weight", False),
        ("layers.[01].*", "layers.1.bias", True),
        ("A.b", "a.b", False),
    ],
)
def test_table(pattern, path, fits):
    assert matches(pattern, path) is fits


@given(NAMES, NAMES)
def test_a_path_fits_itself_alone_and_any_suffix_under_stars(a, b):
    one, other = ".".join(a), ".".join(b)
    assert matches(one, other) is (a == b)
    assert matches(f"**.{other}", f"{one}.{other}")
    assert matches(".".join("*" * len(a)), other) is (len(a) == len(b))
