"""Data in memory: its split, its task, and what it refuses."""

import re
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import chimera as ch
from chimera.fit.data import Data


def rows_of(data: Data) -> Tensor:
    return torch.cat([data.train.x, data.validation.x, data.test.x])


@given(samples=st.integers(5, 80), seed=st.integers(-5, 5))
@settings(deadline=None, max_examples=40)
def test_every_sample_is_in_one_part_with_its_target(samples: int, seed: int) -> None:
    x = torch.arange(samples * 2.0).view(samples, 2)
    data = ch.data(x, torch.arange(samples), seed=seed)
    assert torch.equal(rows_of(data).sort(0).values, x)
    for part in (data.train, data.validation, data.test):
        assert torch.equal(part.x[:, 0], part.y * 2.0)
    assert (len(data.train), len(data.validation)) == (
        round(0.6 * samples),
        round(0.8 * samples) - round(0.6 * samples),
    )


def test_the_split_depends_on_the_seed_alone() -> None:
    x, y = torch.randn(50, 3), torch.randn(50)
    assert torch.equal(ch.data(x, y, seed=3).test.x, ch.data(x, y, seed=3).test.x)
    assert not torch.equal(ch.data(x, y, seed=3).test.x, ch.data(x, y, seed=4).test.x)
    assert ch.data(x, y, seed=3).sha256() == ch.data(x.clone(), y.clone(), seed=3).sha256()
    assert ch.data(x, y, seed=3).sha256() != ch.data(x, y, seed=4).sha256()
    assert ch.data(x, y).sha256() != ch.data(x, y + 1).sha256()


def test_whole_numbers_mean_classification_and_floats_regression() -> None:
    x = torch.zeros(10, 4, 2)
    labels = torch.arange(10) % 3
    for y in (labels, labels.to(torch.uint8), labels.numpy(), labels.numpy().astype("uint16")):
        data = ch.data(x, y)
        assert (data.task, data.classes, data.outputs, data.features) == ("classification", 3, 3, 8)
        assert data.train.y.dtype == torch.int64
    assert ch.data(x, labels > 0).classes == 2
    for y, outputs in ((torch.zeros(10), 1), (torch.zeros(10, 5, 2), 10)):
        data = ch.data(x, y)
        assert (data.task, data.classes, data.outputs) == ("regression", None, outputs)


def test_numpy_floats_take_torchs_default_dtype_and_tensors_keep_theirs() -> None:
    y = numpy.zeros(10)
    assert ch.data(numpy.zeros((10, 2)), y).train.x.dtype == torch.float32
    assert ch.data(numpy.zeros((10, 2), dtype=">f8"), y).train.x.dtype == torch.float32
    assert ch.data(torch.zeros(10, 2, dtype=torch.float64), y).train.x.dtype == torch.float64
    assert ch.data(numpy.zeros((10, 2), dtype=numpy.int32), y).train.x.dtype == torch.int32


def test_an_array_that_cannot_be_written_to_or_runs_backwards_is_taken() -> None:
    x = numpy.arange(20.0).reshape(10, 2)[::-1]
    x.flags.writeable = False
    data = ch.data(x, numpy.arange(10.0))
    assert torch.equal(rows_of(data).sort(0).values, torch.arange(20.0).view(10, 2))


def test_the_data_do_not_share_memory_with_what_was_given() -> None:
    x = torch.zeros(10, 2)
    data = ch.data(x, torch.zeros(10))
    x += 1
    assert rows_of(data).sum() == 0


def test_to_casts_floats_and_leaves_labels() -> None:
    data = ch.data(torch.zeros(10, 2), torch.arange(10)).to("cpu", torch.float64)
    assert (data.train.x.dtype, data.train.y.dtype) == (torch.float64, torch.int64)
    assert data.spec(4) == ch.spec(4, 2, dtype=torch.float64)


NAN = torch.zeros(10, 2)
NAN[7, 1] = float("nan")
INFINITE = numpy.zeros(10)
INFINITE[3] = numpy.inf
X, Y = torch.zeros(10, 2), torch.zeros(10)


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "message"),
    [
        (X, torch.zeros(9), {}, ValueError, "same length, got 10 and 9"),
        (NAN, Y, {}, ValueError, "x has NaN in row 7;"),
        (X, INFINITE, {}, ValueError, "y has an infinite number in row 3;"),
        (X, torch.arange(10) - 1, {}, ValueError, "class numbers from 0, got -1 in row 0"),
        (X, torch.zeros(10, 1).long(), {}, ValueError, "[samples], got shape [10, 1]; y.squeeze"),
        (X, torch.eye(10).long(), {}, ValueError, "got shape [10, 10]; y.argmax(1) tells one-hot"),
        (X, torch.tensor(3), {}, ValueError, "y must have a leading axis"),
        ([[1.0]], Y, {}, TypeError, "x must be a tensor or a numpy array, got list; torch.tensor"),
        (X, numpy.array(["a"] * 10), {}, TypeError, "y must hold real numbers, got an array of <U"),
        (X, torch.zeros(10, dtype=torch.cfloat), {}, TypeError, "real numbers, got a tensor of"),
        (X, Y, {"split": (0.6, 0.2, 0.1)}, ValueError, "split must sum to 1, got"),
        (X, Y, {"split": (0.8, 0.2, 0.0)}, ValueError, "leave no part empty"),
        (X, Y, {"split": (0.8, 0.2)}, ValueError, "three fractions"),
        (X, Y, {"split": "a"}, ValueError, "three fractions"),
        (X, Y, {"split": (0.97, 0.02, 0.01)}, ValueError, "leaves the validation part empty"),
        (torch.zeros(0, 2), torch.zeros(0), {}, ValueError, "leaves the train part empty"),
        (X, Y, {"seed": 0.5}, TypeError, "seed must be an int"),
    ],
)
def test_mistakes_are_told(
    x: Any, y: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        ch.data(x, y, **options)


def test_numbers_that_are_amounts_rather_than_classes_are_told():
    x, y = torch.rand(60, 4), torch.arange(60) % 3 * 1_000_000
    with pytest.warns(
        ch.ChimeraWarning, match="2000001 of them, of which 3 occur; floats mean reg"
    ):
        ch.data(x, y)
    ch.data(x, torch.arange(60) * 10)  # classes of which few occur
