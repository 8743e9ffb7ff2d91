import pytest

from chimera.cli.mistake import Mistake
from chimera.cli.options import rates, shape


def test_one_rate_or_a_range() -> None:
    assert rates("1e-3") == 0.001
    assert rates("1e-4:0.1") == (1e-4, 0.1)
    assert rates("1:1") == (1.0, 1.0)


@pytest.mark.parametrize("text", ["", "fast", "0", "-1", "1:2:3", "1:", "nan", "inf", "0:1"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(Mistake, match="--lr: expected a number above 0 or a range LOW:HIGH"):
        rates(text)


def test_a_range_upside_down() -> None:
    with pytest.raises(Mistake, match="LOW not above HIGH, got '1:0.1'"):
        rates("1:0.1")


def test_shapes() -> None:
    assert shape("2,20") == (2, 20)
    assert shape("batch, 3,8") == ("batch", 3, 8)


@pytest.mark.parametrize("text", ["", "2,", "0,3", "-1", "2x3", "2;3", "1.5"])
def test_what_is_no_shape(text: str) -> None:
    with pytest.raises(Mistake, match="--input: expected sizes or names such as 2,20"):
        shape(text)
