"""The comparison with peers: what it counts, what it draws, and that it sees what is wrong."""

import pytest
import torch
from candidates import available, by_hand, loop, ours, taken_back
from machine import floor
from peers import check, lines
from torch.utils.flop_counter import FlopCounterMode
from work import CPU, GPU, Row, drawn

DEVICE = torch.device("cpu")
SMALL = (
    Row("mlp", (5, 7, 6, 3), 3, 4),
    Row("cnn", (4, 6, 3), 2, 3, 8),
    Row("gru", (4, 5), 3, 2, 6),
)


@pytest.mark.parametrize("row", [*SMALL[:2], CPU[2], CPU[3]], ids=lambda row: row.name)
def test_operations_are_those_that_torch_counts(row: Row) -> None:
    x, y = (t[0] for t in row.batches(DEVICE, torch.float32))
    net = row.make()
    with FlopCounterMode(display=False) as counter:
        row.loss(net(x), y).backward()
    assert row.cost.operations == counter.get_total_flops()


def test_a_gru_is_counted_gate_by_gate() -> None:
    row = SMALL[2]
    products = 3 * 2 * row.batch * row.steps * (4 * 5 + 5 * 5)  # three gates, two products each
    backward = products + 3 * 2 * row.batch * row.steps * 5 * 5  # weights; states, not inputs
    assert row.cost.operations == products + backward


@pytest.mark.parametrize("row", SMALL, ids=lambda row: row.name)
def test_every_installed_candidate_computes_what_the_loop_does(
    row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # a while, else
    found = available(("eager",), compile_loop=0, members=row.members)
    failed = check(found, row, DEVICE)
    refused = {"vmap"} if row.kind == "gru" else set()
    mine = ("loop", "vmap", "vmap compiled", "step compiled", "ours eager")
    assert {name for name in failed if name in mine} == refused


def test_a_candidate_that_computes_something_else_is_seen() -> None:
    def wrong(modules, row, x, y):  # type: ignore[no-untyped-def]
        return by_hand(modules, row, x * 1.0001, y)

    with pytest.raises(AssertionError, match="wrong differs from the loop by"):
        check({"loop": loop, "wrong": wrong}, SMALL[0], DEVICE)


def test_ours_may_not_fail_and_others_are_told() -> None:
    def broken(*_):  # type: ignore[no-untyped-def]
        raise RuntimeError("no such thing\nmore")

    assert check({"loop": loop, "peer": broken}, SMALL[0], DEVICE) == {
        "peer": "fails: RuntimeError: no such thing"
    }
    with pytest.raises(RuntimeError, match="no such thing"):
        check({"loop": loop, "ours": broken}, SMALL[0], DEVICE)
    assert check({"loop": loop, "ours": ours}, SMALL[0], DEVICE) == {}


def test_a_seed_draws_the_same_rows_and_another_others() -> None:
    assert drawn(7, 8, DEVICE) == drawn(7, 8, DEVICE)
    assert drawn(7, 8, DEVICE) != drawn(8, 8, DEVICE)
    assert not set(drawn(7, 40, DEVICE)) & {*CPU, *GPU}
    assert {row.kind for row in drawn(7, 40, DEVICE)} == {"mlp", "cnn", "gru"}


def test_the_floor_adds_bytes_and_operations() -> None:
    row = Row("mlp", (2, 3), 10, 4)
    numbers = 10 * (2 * 3 + 3) + 3 * 4 * (2 + 3)
    assert row.cost.numbers == numbers
    operations = 4 * 2 * (2 * 2 * 3)  # forward and weights; no gradient of the input
    assert floor(row, 1e9, 1e12) == pytest.approx(10 * (4 * numbers / 1e9 + operations / 1e12))


def test_a_table_names_the_best_of_both_sides() -> None:
    found = {
        "row": "three",
        "ms": {"loop": 9.0, "vmap": 3.0, "ours eager": 2.0, "ours compiled": 1.5},
        "first_call_s": dict.fromkeys(("loop", "vmap", "ours eager", "ours compiled"), 1.0),
        "failed": {"JAX": "fails: no", "JAX shifted": "-"},
        "floor_ms": 0.5,
        "bytes": 1e6,
        "operations": 1e6,
        "copy_GB_per_s": 10,
        "product_GFLOP_per_s": 100,
    }
    text = "\n".join(lines(found))
    assert "best peer / best of ours: vmap / ours compiled = 2.00" in text
    assert "33.3% of the floor" in text
    assert "fails: no" in text
    assert "shifted" not in text


def test_steps_that_prepare_a_graph_are_taken_back() -> None:
    weight = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()

    with taken_back([weight], optimizer):
        step()
        step()
        assert weight[0] < 1
    assert torch.equal(weight, torch.ones(3))
    step()
    once = weight.clone()
    other = torch.ones(3, requires_grad=True)
    weight, optimizer = other, torch.optim.Adam([other], lr=0.1)
    step()
    assert torch.equal(once, other)
