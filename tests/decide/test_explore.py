"""Every program here asks for the truth of tensors without data; each outcome must be taken."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from chimera.decide.explore import LIMIT, DataNeeded, Explorer


def explore(program, limit=LIMIT, root=None):
    """What each run of ``program`` returned, and what those that failed raised."""
    explorer, outcomes, errors = Explorer(limit), [], []
    for mode in explorer.runs():
        mode.root = root
        x = torch.empty(3, 4, device="meta")
        try:
            with mode:
                outcomes.append(program(x))
        except (ValueError, ZeroDivisionError) as error:
            errors.append(error)
        else:
            mode.passed()
    return outcomes, errors, explorer


def test_a_program_without_conditions_runs_once():
    outcomes, errors, explorer = explore(lambda x: x.shape)
    assert outcomes == [(3, 4)]
    assert not errors
    assert not explorer.conditions


def test_both_branches_are_taken():
    program = lambda x: "then" if x.sum() > 0 else "otherwise"  # noqa: E731
    outcomes, _, explorer = explore(program)
    assert set(outcomes) == {"then", "otherwise"}
    (condition,) = explorer.conditions.values()
    assert condition.file == __file__
    assert condition.line == program.__code__.co_firstlineno


def test_nested_branches_are_all_taken():
    def program(x):
        if x.sum() > 0:
            return ("a", "b")[int(bool(x.mean() > 0))]
        if x.max() > 0:
            return "c" if x.min() > 0 else "d"
        return "e"

    outcomes, _, _ = explore(program)
    assert set(outcomes) == set("abcde")


def test_conditions_of_one_line_are_told_apart():
    def program(x):
        return bool(x.sum() > 0), bool(x.sum() > 1)

    outcomes, _, explorer = explore(program)
    assert len(explorer.conditions) == 2
    assert {first for first, _ in outcomes} == {second for _, second in outcomes} == {True, False}


def test_one_tensor_answers_alike_until_it_is_written_to():
    def program(x):
        moved = x.sum() > 0
        first, again = bool(moved), bool(moved.is_nonzero())
        moved.logical_not_()
        return first, again, bool(moved)

    outcomes, _, _ = explore(program)
    assert all(first == again for first, again, _ in outcomes)
    assert {after for *_, after in outcomes} == {True, False}


def test_a_condition_that_hands_on_what_it_asked_answers_as_it_was_asked():
    def program(x):
        return bool(x.sum() > 0 and x.shape[0] == 7)

    outcomes, _, _ = explore(program)
    assert not any(outcomes)


@pytest.mark.parametrize(
    "condition",
    [
        lambda x: x.sum() > 0 or x.mean() > 0,
        lambda x: x.sum() > 0 and x.mean() > 0,
        lambda x: not x.any(),
        lambda x: torch.equal(x, x + 1),
        lambda x: torch.allclose(x, x + 1),
        lambda x: x.sum().is_nonzero(),
        lambda x: torch.is_nonzero(x.sum()),
        lambda x: 1.0 in x,
        lambda x: bool(x.sum()),
    ],
)
def test_every_way_to_ask_has_both_outcomes(condition):
    outcomes, _, _ = explore(lambda x: bool(condition(x)))
    assert set(outcomes) == {True, False}


def test_shapes_that_differ_are_not_equal_whatever_the_data():
    outcomes, _, explorer = explore(lambda x: torch.equal(x, x[0]))
    assert outcomes == [False]
    assert not explorer.conditions


def halve(x):
    turns = 0
    while x.abs().sum() > 1:
        x = x / 2
        turns += 1
    return turns


def forever(x):
    for turn in itertools.count():
        if x.sum() > turn:
            return turn


def nested(x):
    turns = 0
    while x.sum() > 0:
        while x.mean() > 0 or x.max() > 1:
            turns += 1
            x = x - 1
        x = x / 2
    return turns


def positive(x):
    return bool(x.sum() > 0)


def nested_in_one_function(x):
    turns = 0
    while positive(x):
        while positive(x):
            turns += 1
    return turns


def until_both(x):
    turns = 0
    while not (x.sum() > 0 and x.mean() > 0 and x.max() > 0):
        turns += 1
    return turns


def until_they_differ(x):
    turns = 0
    while bool(x.sum() > 0) == bool(x.mean() > 0):
        turns += 1
    return turns


def recursive(x, depth=0):
    return recursive(x / 2, depth + 1) if x.sum() > 1 else depth


@pytest.mark.parametrize(
    "program",
    [halve, forever, nested, nested_in_one_function, until_both, until_they_differ, recursive],
)
def test_loops_end(program):
    outcomes, errors, _ = explore(program)
    assert outcomes
    assert not errors


def test_a_loop_is_entered_and_left():
    outcomes, _, _ = explore(halve)
    assert max(outcomes) > 0


class Shared(nn.Module):
    def __init__(self, inner=None):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        turns = 0
        while x.sum() > 0:
            turns += 1 if self.inner is None else self.inner(x)
        return turns


def test_places_of_one_class_are_told_apart_by_their_module():
    root = nn.Sequential(Shared(Shared()))
    outcomes, errors, explorer = explore(root, root=root)
    assert outcomes
    assert not errors
    assert {condition.path for condition in explorer.conditions.values()} == {"0", "0.inner"}


def test_an_outcome_that_raises_is_no_error_if_another_passes():
    def program(x):
        if torch.isnan(x).any():
            raise ValueError("not a number")
        return "fine"

    outcomes, errors, _ = explore(program)
    assert "fine" in outcomes
    assert len(errors) == 1


def test_outcomes_that_raise_are_avoided_until_a_run_passes():
    def program(x):
        for step in range(8):
            if x.sum() > step:
                raise ValueError(step)
        return "fine"

    outcomes, _, _ = explore(program)
    assert "fine" in outcomes


def test_a_program_that_always_raises_ends():
    def program(x):
        if x.sum() > 0:
            raise ValueError("yes")
        raise ValueError("no")

    outcomes, errors, _ = explore(program)
    assert not outcomes
    assert {str(error) for error in errors} == {"yes", "no"}


def test_runs_by_lot_reach_every_turn_of_a_loop():
    """Taken in turn, the outcomes of the one place would be the same at each turn of each run."""

    def program(x):
        return [turn for turn in range(4) if x.sum() > turn]

    reached = set()
    explorer, count = Explorer(), 0
    for mode in explorer.runs(lambda: 0 if len(reached) == 4 else LIMIT):
        count += 1
        with mode:
            reached.update(program(torch.empty(3, device="meta")))
        mode.passed()
    assert reached == {0, 1, 2, 3}
    assert 1 < count < LIMIT
    assert explore(program)[0] == [[0, 2]]


def test_the_limit_holds():
    outcomes, errors, _ = explore(lambda x: bool(x.sum() > 0), limit=1)
    assert len(outcomes) + len(errors) == 1
    places = [f"x[{number}].sum() > 0" for number in range(200)]
    program = eval("lambda x: [bool(part) for part in (" + ", ".join(places) + ")]")
    outcomes, errors, _ = explore(lambda x: program(x.new_empty(200, 2)))
    assert len(outcomes) <= LIMIT


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.sum().item(),
        lambda x: int(x.sum()),
        lambda x: float(x.sum()),
        lambda x: complex(x.sum()),
        lambda x: x.tolist(),
        lambda x: x.numpy(),
        lambda x: list(range(x.sum().long())),
        lambda x: f"{x.sum():.3f}",
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.where(x > 0),
        lambda x: x.unique(),
        lambda x: torch.masked_select(x, x > 0),
        lambda x: torch.full((2,), x.sum()),
        lambda x: torch.bincount(x[0].long()),
        lambda x: x.repeat_interleave(x[:, 0].long(), 0),
    ],
)
def test_where_a_number_is_needed_the_line_is_named(ask):
    """Fails when torch words otherwise that a tensor has no data."""
    with pytest.raises(DataNeeded, match=r"example=") as caught:
        explore(ask)
    assert f"{__file__}:{ask.__code__.co_firstlineno} needs the data" in str(caught.value)


def test_a_tensor_with_data_keeps_its_truth():
    outcomes, _, explorer = explore(lambda x: (bool(torch.ones(())), torch.ones(()).item()))
    assert outcomes == [(True, 1.0)]
    assert not explorer.conditions


def test_a_shape_that_does_not_fit_is_no_want_of_data():
    with pytest.raises(RuntimeError, match="broadcast") as caught:
        explore(lambda x: x + torch.empty(5, device="meta"))
    assert type(caught.value) is RuntimeError


@st.composite
def programs(draw, depth=0):
    """A random program of branches and loops, and how many leaves it has."""
    kind = draw(st.sampled_from(["leaf", "if", "while", "then"] if depth < 3 else ["leaf"]))
    if kind == "leaf":
        return ("leaf",)
    parts = [draw(programs(depth + 1)) for _ in range(1 if kind == "while" else 2)]
    return (kind, *parts)


def code_of(program, indent, counter):
    pad = "    " * indent
    kind, *parts = program
    if kind == "leaf":
        return f"{pad}seen.add({next(counter)})\n"
    if kind == "then":
        return "".join(code_of(part, indent, counter) for part in parts)
    if kind == "while":
        return f"{pad}while x.sum() > 0:\n" + code_of(parts[0], indent + 1, counter)
    return (
        f"{pad}if x.sum() > 0:\n{code_of(parts[0], indent + 1, counter)}"
        f"{pad}else:\n{code_of(parts[1], indent + 1, counter)}"
    )


@settings(deadline=None, max_examples=40)
@given(programs())
def test_every_line_of_a_random_program_is_reached(program):
    counter = itertools.count()
    source = "def run(x, seen):\n" + code_of(program, 1, counter) + "    return True\n"
    space = {}
    exec(compile(source, "random_program.py", "exec"), space)
    seen = set()
    outcomes, errors, _ = explore(lambda x: space["run"](x, seen))
    assert not errors
    assert len(outcomes) <= LIMIT
    assert seen == set(range(next(counter)))
