"""What a recording changes in place, by its operations."""

import pytest
import torch
import torch.nn.functional as F

from chimera.engine.program import Uncapturable
from chimera.engine.trace import recorded
from chimera.engine.written import check_writes, written

HELD = torch.ones(3)


def of_a_constant(x, y):
    HELD.mul_(2)
    return [x + HELD]


def of_a_view(x, y):
    first, _ = y.view(-1).split([4, 2])
    first[1:].zero_()
    return [x + 1]


def of_statistics(x, y):
    return [F.batch_norm(y, x[0], x[1], training=True)]


CASES = {
    "nothing": (lambda x, y: [x + y], set()),
    "its own results": (lambda x, y: [(x + y).add_(1)], set()),
    "a copy": (lambda x, y: [x.clone().mul_(2)], set()),
    "an argument": (lambda x, y: [x.add_(y)], {0}),
    "both": (lambda x, y: [x.add_(1), torch.add(x, 1, out=y)], {0, 1}),
    "a view": (of_a_view, {1}),
    "detached": (lambda x, y: [y.detach().add_(1)], {1}),
    "statistics": (of_statistics, {0}),
    "statistics in evaluation": (lambda x, y: [F.batch_norm(y, x[0], x[1])], set()),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_is_told(case):
    function, expected = CASES[case]
    with torch.no_grad():
        graph = recorded(function, [torch.ones(2, 3), torch.ones(2, 3)])
    assert written(graph) == expected
    check_writes(graph, expected, 1)


@pytest.mark.parametrize(
    ("case", "own", "reason"),
    [("an argument", 1, "parameters"), ("an argument", 0, "inputs"), ("a view", 1, "inputs")],
)
def test_what_may_not_be_written_is_refused(case, own, reason):
    with torch.no_grad():
        graph = recorded(CASES[case][0], [torch.ones(2, 3), torch.ones(2, 3)])
    with pytest.raises(Uncapturable, match=f"changes its {reason}|changes {reason}"):
        check_writes(graph, set(), own)


def test_a_constant_that_is_written_is_refused():
    with torch.no_grad():
        graph = recorded(of_a_constant, [torch.ones(3), torch.ones(3)])
    with pytest.raises(Uncapturable, match="outside of the network"):
        check_writes(graph, {0, 1}, 2)


def test_operations_still_say_what_they_change():
    schema = torch.ops.aten.add_.Tensor._schema
    assert [a.alias_info is not None and a.alias_info.is_write for a in schema.arguments][:2] == [
        True,
        False,
    ]
    assert "alias_info" in dir(torch.ops.aten.view.default._schema.arguments[0])
