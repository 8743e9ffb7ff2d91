"""The digits of scikit-learn, and what is said where they are missing."""

import sys

import pytest
import torch

import chimera as ch


def test_the_digits_are_all_there() -> None:
    pytest.importorskip("sklearn")
    data = ch.digits()
    assert len(data) == 1797
    assert (data.classes, data.features, data.name) == (10, 64, "digits")
    x = torch.cat([data.train.x, data.validation.x, data.test.x])
    assert (x.shape, x.dtype, x.min(), x.max()) == ((1797, 64), torch.float32, 0, 1)
    assert torch.bincount(data.train.y).min() > 80


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'chimera-nn\[data\]'"):
        ch.digits()
