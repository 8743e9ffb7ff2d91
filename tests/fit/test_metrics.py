"""Figures of every member: against scikit-learn, in chunks, and where a member broke down."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from chimera.fit.data import Part
from chimera.fit.evaluate import evaluate
from chimera.fit.losses import Loss, mean_squared_error
from chimera.fit.metrics import R2, Accuracy, Custom, Metric
from chimera.stack import Stack

sklearn_metrics = pytest.importorskip("sklearn.metrics")


class Given(nn.Module):
    """A member whose outputs are known beforehand, [samples, ...]: ``x`` is the sample."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.register_buffer("outputs", outputs)

    def forward(self, x: Tensor) -> Any:
        return self.outputs[x]


def stack_of(outputs: Tensor, apart: bool = False) -> Stack:
    """Members with these outputs [members, samples, ...]; apart in groups of their own if asked."""
    members: list[nn.Module] = [Given(output) for output in outputs]
    if apart:
        members[1] = nn.Sequential(members[1], nn.Identity())
    return Stack(members)


def classification(samples: int = 23, members: int = 3) -> tuple[Tensor, Part]:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(members, samples, 4, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 4, (samples,), generator=generator)
    return outputs, Part(torch.arange(samples), target)


def regression(shape: tuple[int, ...] = (3,), members: int = 3) -> tuple[Tensor, Part]:
    generator = torch.Generator().manual_seed(1)
    outputs = torch.randn(members, 23, *shape, generator=generator, dtype=torch.float64)
    target = torch.randn(23, *shape, generator=generator, dtype=torch.float64)
    return outputs, Part(torch.arange(23), target)


@given(chunk=st.integers(1, 30), apart=st.booleans())
@settings(deadline=None, max_examples=30)
def test_accuracy_and_cross_entropy_are_the_whole_parts(chunk: int, apart: bool) -> None:
    outputs, part = classification()
    figures = evaluate(stack_of(outputs, apart), part, cross_entropy, Accuracy(), chunk)
    for member, output in enumerate(outputs):
        torch.testing.assert_close(figures.loss[member], cross_entropy(output, part.y))
        expected = sklearn_metrics.accuracy_score(part.y, output.argmax(1))
        assert figures.metric[member] == pytest.approx(expected)


@given(
    chunk=st.integers(1, 30), apart=st.booleans(), shape=st.sampled_from([(), (1,), (3,), (2, 2)])
)
@settings(deadline=None, max_examples=30)
def test_r2_and_squared_error_are_the_whole_parts(
    chunk: int, apart: bool, shape: tuple[int, ...]
) -> None:
    outputs, part = regression(shape)
    figures = evaluate(stack_of(outputs, apart), part, mean_squared_error, R2(), chunk)
    for member, output in enumerate(outputs):
        torch.testing.assert_close(figures.loss[member], mse_loss(output, part.y))
        expected = sklearn_metrics.r2_score(part.y.reshape(23, -1), output.reshape(23, -1))
        assert figures.metric[member] == pytest.approx(expected)


def test_r2_of_a_target_that_does_not_vary_is_scikit_learns() -> None:
    outputs, part = regression()
    part.y[:, 1] = 2.0
    outputs[0, :, 1] = 2.0
    figures = evaluate(stack_of(outputs), part, mean_squared_error, R2(), 10)
    for member, output in enumerate(outputs):
        assert figures.metric[member] == pytest.approx(sklearn_metrics.r2_score(part.y, output))


def test_an_output_with_a_trailing_axis_of_one_is_the_target() -> None:
    outputs, part = regression(())
    figures = evaluate(stack_of(outputs[..., None]), part, mean_squared_error, R2(), 10)
    same = evaluate(stack_of(outputs), part, mean_squared_error, R2(), 10)
    assert torch.equal(figures.loss, same.loss)
    assert torch.equal(figures.metric, same.metric)


def test_outputs_that_would_broadcast_are_refused() -> None:
    outputs, part = regression((3,))
    with pytest.raises(ValueError, match=r"output \[10, 3, 1, 3\] does not fit the target"):
        evaluate(
            stack_of(outputs[..., None].expand(-1, -1, -1, 3)[:, :, :, None]),
            part,
            mean_squared_error,
            R2(),
            10,
        )


def f1(output: Tensor, target: Tensor) -> float:
    """A metric that no mean over chunks gives."""
    return float(sklearn_metrics.f1_score(target, output.argmax(1), average="macro"))


@pytest.mark.parametrize("chunk", [1, 7, 100])
@pytest.mark.parametrize("apart", [True, False])
def test_a_metric_of_the_users_own_sees_the_whole_part(chunk: int, apart: bool) -> None:
    outputs, part = classification()
    figures = evaluate(stack_of(outputs, apart), part, cross_entropy, Custom(f1), chunk)
    assert figures.metric.tolist() == pytest.approx([f1(output, part.y) for output in outputs])


def test_names_of_metrics() -> None:
    assert Custom(f1).name == "f1"
    assert Custom(lambda output, target: 0).name == "metric"


def nll(output: Tensor, target: Tensor) -> Tensor:
    """A loss that is no task's own."""
    return cross_entropy(2 * output, target)


@pytest.mark.parametrize("loss", [cross_entropy, nll])
@pytest.mark.parametrize("metric", [Accuracy(), Custom(f1)])
def test_a_member_that_broke_down_has_no_figures_and_the_others_keep_theirs(
    loss: Loss, metric: Metric
) -> None:
    outputs, part = classification()
    whole = evaluate(stack_of(outputs), part, loss, metric, 10)
    outputs = outputs.clone()
    outputs[1, 5, 2] = float("nan")
    figures = evaluate(stack_of(outputs), part, loss, metric, 10)
    assert figures.loss.isnan().tolist() == [False, True, False]
    assert figures.metric.isnan().tolist() == [False, True, False]
    assert torch.equal(figures.loss[::2], whole.loss[::2])
    assert torch.equal(figures.metric[::2], whole.metric[::2])
