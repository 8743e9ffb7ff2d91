"""Ranking, the best members and the summary: never a member that broke down."""

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import chimera as ch
from chimera.fit.metrics import Custom, Metric
from chimera.fit.result import Result, ranking
from chimera.fit.settings import checked

NAN = float("nan")


def row(member: int, loss: float, accuracy: float, test: float = 0.5) -> dict[str, Any]:
    return {
        "member": member,
        "group": 0,
        "lr": 0.1,
        "train_loss": loss,
        "validation_loss": loss,
        "validation_accuracy": accuracy,
        "test_accuracy": test,
    }


TABLE = [
    row(0, 0.5, 0.8, 0.1),
    row(1, NAN, NAN, NAN),
    row(2, 0.4, 0.8, 0.2),
    row(3, 0.9, 0.9, 0.7),
    row(4, float("inf"), 1.0, 1.0),
    row(5, 0.4, 0.8, 0.4),
]


def test_ranking_goes_by_the_metric_then_the_loss_then_the_place() -> None:
    assert ranking(TABLE, "accuracy", True) == [3, 2, 5, 0]
    assert ranking(TABLE, "accuracy", False) == [2, 5, 0, 3]
    assert ranking(TABLE, "accuracy", None) == [2, 5, 0, 3]


def test_a_member_whose_training_loss_is_not_finite_is_left_out() -> None:
    table = [row(0, 0.1, 0.9), row(1, 0.2, 0.8)]
    table[0]["train_loss"] = NAN
    assert ranking(table, "accuracy", True) == [1]


def result_of(table: list[dict[str, Any]], metric: Metric | None = None) -> Result:
    stack = ch.Stack([nn.Linear(2, 2) for _ in table])
    data = ch.data(torch.zeros(10, 2), torch.arange(10) % 2)
    settings = checked(data, None, None, None, 1, 1, 0)
    if metric is not None:
        settings = replace(settings, metric=metric)
    return Result(
        stack=stack,
        table=table,
        epochs=[{"epoch": 1}],
        ensemble=0.9,
        seconds=1.5,
        train_seconds=1.0,
        settings=settings,
    )


def test_the_best_are_plain_modules_in_evaluation_mode() -> None:
    result = result_of(TABLE)
    assert result.ranking == [3, 2, 5, 0]
    first, second = result.best(2)
    assert type(first) is nn.Linear
    assert not first.training
    assert torch.equal(first.weight, result.stack[3].weight)
    assert torch.equal(second.weight, result.stack[2].weight)


@pytest.mark.parametrize("k", [0, 5])
def test_more_members_than_there_are_cannot_be_the_best(k: int) -> None:
    message = f"k must be between 1 and 4, got {k}; 2 members have no finite figures"
    with pytest.raises(ValueError, match=re.escape(message)):
        result_of(TABLE).best(k)


def test_the_summary_counts_members_with_figures_alone() -> None:
    assert result_of(TABLE).summary == {
        "metric": "accuracy",
        "best_member": 3,
        "best": 0.7,
        "median": pytest.approx(0.3),
        "ensemble": 0.9,
        "broken": 2,
    }


def test_with_a_metric_of_the_users_own_the_loss_decides() -> None:
    def accuracy(output: torch.Tensor, target: torch.Tensor) -> float:
        return 0.0

    assert result_of(TABLE, Custom(accuracy)).ranking == [2, 5, 0, 3]


def test_where_all_broke_down_there_is_no_best() -> None:
    result = result_of([row(0, NAN, NAN), row(1, NAN, NAN)])
    assert (result.summary["best"], result.summary["median"]) == (None, None)
    assert "best none" in repr(result)
    with pytest.raises(ValueError, match="k must be between 1 and 0"):
        result.best()


def test_its_text_says_what_came_out() -> None:
    assert repr(result_of(TABLE)) == (
        "Result(6 members, 1 epochs, 1.5 s; test accuracy: best 0.7000, median 0.3000, "
        "ensemble 0.9000; 2 broke down)"
    )


@pytest.mark.parametrize("k", ["a", 1.0, None])
def test_how_many_is_an_int(k: Any) -> None:
    with pytest.raises(TypeError, match="best: k must be an int, got"):
        result_of(TABLE).best(k)
