"""One run shared by several ranks: the same members, whoever trains them."""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import chimera as ch

RUN = """
join()
x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
data = ch.data(x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long())
nets = ch.instances(MLP, 5, 4, 3, hidden=6, dropout=0.2, seed=0)
nets += ch.instances(nn.Linear, 3, 4, 3, seed=0)
nets = [net.double() for net in nets]
"""
TELL = """
state = {name: tensor.flatten().tolist() for name, tensor in result.stack.state_dict().items()}
best = [p.flatten().tolist() for p in result.best(1)[0].parameters()]
said = {"table": result.table, "epochs": result.epochs, "ensemble": result.ensemble,
        "state": state, "best": best, "calls": result.stack.calls}
with open(f"{FOLDER}/{RANK}.json", "w") as file:
    json.dump(said, file)
"""
FIT = """
result = ch.fit(nets, data, epochs=3, batch_size=8, lr=ch.LogUniform(1e-3, 1e-1),
                hyperparameters={"width": list(range(8))}, clip=[1.0] * 4 + [2.0] * 4)
"""


def assert_close(one: Any, other: Any) -> None:
    """Both say the same, numbers to 1e-6 of them; NaN is itself."""
    if isinstance(one, float):
        assert other == pytest.approx(one, rel=1e-6, abs=1e-9, nan_ok=True)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_close(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_close(a, b)
    else:
        assert one == other


def test_members_are_the_same_on_one_to_four_ranks(ranks: Any) -> None:
    (alone,) = ranks.run(RUN + FIT + TELL, 1).said
    for size in (2, 3, 4):
        ended = ranks.run(RUN + FIT + TELL, size)
        assert ended.codes == [0] * size, ended.err
        first, *others = ended.said
        assert all(other == first for other in others)
        assert_close(alone, first)
        hyper = ("member", "group", "lr", "clip", "width")
        for row, twin in zip(alone["table"], first["table"], strict=True):
            assert all(row[key] == twin[key] for key in hyper)


def test_settings_of_one_a_member_go_with_the_member(ranks: Any) -> None:
    fit = """
from functools import partial
optimizer = partial(ch.optim.AdamW, betas=([0.8 + i / 100 for i in range(8)], 0.99),
                    groups=[{"params": "hidden.0.*", "lr": [i / 1000 for i in range(8)]},
                            {"params": "weight", "weight_decay": [i / 10 for i in range(8)]}])
result = ch.fit(nets, data, epochs=2, optimizer=optimizer, lr=[i / 500 for i in range(8)])
"""
    (alone,) = ranks.run(RUN + fit + TELL, 1).said
    ended = ranks.run(RUN + fit + TELL, 3)
    assert ended.codes == [0, 0, 0], ended.err
    assert_close(alone, ended.said[0])


def test_a_stack_is_trained_in_place_and_carries_what_its_members_wrote(ranks: Any) -> None:
    code = """
class Counts(nn.Module):
    def __init__(self, start):
        super().__init__()
        self.out, self.calls, self.start = nn.Linear(4, 3), 0, start
        self.register_buffer("mean", torch.zeros(4))
        self.last = None
    def forward(self, x):
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        self.last = x.detach().mean(0)
        return self.out(x + self.mean)
stack = ch.Stack([Counts(i % 2).double() for i in range(5)], seed=3)
with torch.no_grad():
    for index in range(5):
        stack.member_state(index)["out.weight"].copy_(torch.arange(12.).view(3, 4) / (index + 9))
        stack.member_state(index)["out.bias"].fill_(index / 10)
result = ch.fit(stack, data, epochs=2)
assert result.stack is stack
member = stack[4]
with open(f"{FOLDER}/{RANK}.json", "w") as file:
    json.dump([member.calls, member.start, member.mean.tolist(), member.last.tolist(),
               member.out.weight.tolist(), result.table], file)
"""
    (alone,) = ranks.run(RUN + code, 1).said
    ended = ranks.run(RUN + code, 2)
    assert ended.codes == [0, 0], ended.err
    assert ended.said[0] == ended.said[1]
    assert_close(alone, ended.said[0])


def test_a_recurrent_member_alone_on_its_rank_is_sent_to_the_other(ranks: Any) -> None:
    code = """
class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.out = nn.GRU(2, 3, batch_first=True), nn.Linear(3, 3)
    def forward(self, x):
        return self.out(self.gru(x.view(-1, 2, 2))[0][:, -1])
nets = [net.double() for net in ch.instances(Recurrent, 2, seed=0)]
result = ch.fit(nets, data, epochs=2)
"""
    (alone,) = ranks.run(RUN + code + TELL, 1).said
    ended = ranks.run(RUN + code + TELL, 2)
    assert ended.codes == [0, 0], ended.err
    assert_close(alone, ended.said[1])


def test_more_ranks_than_members_leave_some_idle_and_say_so(ranks: Any) -> None:
    fit = """
import warnings
warnings.simplefilter("always")
result = ch.fit(nets[:3], data, epochs=2)
"""
    (alone,) = ranks.run(RUN + fit + TELL, 1).said
    ended = ranks.run(RUN + fit + TELL, 4)
    assert ended.codes == [0] * 4, ended.err
    assert all(said == ended.said[0] for said in ended.said)
    assert_close(alone, ended.said[0])
    assert "4 ranks for 3 members: rank 3 will be idle" in ended.err[0]
    assert not any(ended.err[1:])


def test_a_member_that_breaks_down_is_quarantined_on_its_rank(ranks: Any) -> None:
    fit = """
with torch.no_grad():
    next(nets[4].parameters()).fill_(float("nan"))
result = ch.fit(nets, data, epochs=2)
assert len(result.ranking) == 7 and 4 not in result.ranking
"""
    (alone,) = ranks.run(RUN + fit + TELL, 1).said
    ended = ranks.run(RUN + fit + TELL, 3)
    assert ended.codes == [0] * 3, ended.err
    died = [row["died"] for row in ended.said[0]["table"]]
    assert died == [None] * 4 + ["epoch 1, step 1: loss not finite"] + [None] * 3
    assert math.isnan(ended.said[0]["table"][4]["test_loss"])
    assert_close(alone, ended.said[0])


def test_regression_and_a_metric_of_ones_own(ranks: Any) -> None:
    fit = """
def worst(output, target):
    return (output[:, 0] - target).abs().max()
data = ch.data(x, x.sum(1) + 0.1)
nets = [net.double() for net in ch.instances(nn.Linear, 4, 4, 1, seed=1)]
result = ch.fit(nets, data, epochs=2, metric=worst if METRIC else None)
"""
    for metric in ("0", "1"):
        code = f"METRIC = {metric}\n" + RUN + fit + TELL
        (alone,) = ranks.run(code, 1).said
        ended = ranks.run(code, 2)
        assert ended.codes == [0, 0], ended.err
        assert_close(alone, ended.said[0])


def test_an_error_is_told_once_with_its_rank_and_members(ranks: Any) -> None:
    fit = """
calls = 0
def loss(output, target):
    global calls
    calls += 1
    if RANK == 1 and calls > 20:
        raise ArithmeticError("broken on purpose")
    return nn.functional.cross_entropy(output, target)
ch.fit(nets, data, epochs=50, loss=loss)
"""
    ended = ranks.run(RUN + fit, 3)
    assert ended.codes == [1, 1, 1]
    assert "ArithmeticError: broken on purpose" in ended.err[1]
    assert "raised by member 2" in ended.err[1]
    assert "on rank 1, which holds the members 2, 3" in ended.err[1]
    for other in (0, 2):
        last = ended.err[other].strip().splitlines()
        assert any("PeerError: rank 1 failed: ArithmeticError: broken" in line for line in last)


def test_ranks_that_were_told_different_things_are_refused(ranks: Any) -> None:
    ended = ranks.run(RUN + "ch.fit(nets, data, epochs=2, batch_size=8 + (RANK == 1))", 2)
    told = "rank 1 "
    assert any(told in err and "batch_size was 8 and is 9" in err for err in ended.err)
    ended = ranks.run(
        RUN + "data = ch.data(x + RANK, (x[:, 0] > 0).long())\nch.fit(nets[:2], data)", 2
    )
    assert any("data.sha256" in err for err in ended.err), ended.err


def test_ranks_that_made_other_members_are_refused(ranks: Any) -> None:
    made = "torch.manual_seed(RANK)\nch.fit([nn.Linear(4, 3) for _ in range(4)], data, epochs=1)"
    ended = ranks.run(RUN + made, 2)
    said = "rank 1 .* has members of other weights than rank 0 .* make the members alike"
    assert all(re.search(said, err) for err in ended.err), ended.err


def test_other_versions_are_refused(ranks: Any) -> None:
    code = """
place = sys.modules["chimera.fit.described"]
if RANK == 2:
    real = place._version
    place._version = lambda package: "0.0.1" if package == "numpy" else real(package)
ch.fit(nets, data, epochs=1)
"""
    ended = ranks.run(RUN + code, 3)
    assert any("rank 2 (" in err and 'is "0.0.1"' in err for err in ended.err), ended.err


def test_a_rank_that_does_not_come_is_named(ranks: Any) -> None:
    ended = ranks.run("join()", 3, ranks=[0, 2], env={"CHIMERA_RANKS_TIMEOUT": "1"})
    assert all("rank 1 of 3 ranks did not come in 1 s" in err for err in ended.err)
    late = RUN + "import time\nif RANK == 1: time.sleep(4)\nelse: ch.fit(nets, data, epochs=1)"
    ended = ranks.run(late, 2, env={"CHIMERA_RANKS_TIMEOUT": "1"})
    assert "rank 1 of 2 ranks did not come in 1 s: the start of the run" in ended.err[0]


def test_a_killed_rank_is_noticed_at_once(ranks: Any) -> None:
    fit = """
import signal
calls = 0
def loss(output, target):
    global calls
    calls += 1
    if RANK == 1 and calls == 30:
        os.kill(os.getpid(), signal.SIGKILL)
    return nn.functional.cross_entropy(output, target)
ch.fit(nets, data, epochs=500, loss=loss)
"""
    ended = ranks.run(RUN + fit, 2)
    assert ended.codes == [1, -9]
    assert "rank 1 (process" in ended.err[0]
    assert "ended without a word" in ended.err[0]


def test_what_cannot_be_sent_to_the_others_is_an_error(ranks: Any) -> None:
    code = """
class Hoards(nn.Module):
    def __init__(self):
        super().__init__()
        self.out, self.held = nn.Linear(4, 3), None
    def forward(self, x):
        self.held = object()
        return self.out(x)
ch.fit([Hoards().double() for _ in range(3)], data, epochs=2)
"""
    ended = ranks.run(RUN + code, 2)
    assert any("held: a call changed this attribute to a object" in err for err in ended.err)
    assert any("sent to all of them" in err for err in ended.err)


@pytest.mark.parametrize("devices", [4, "auto"])
def test_from_plain_python_devices_say_the_command(
    devices: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[ch.fit.__module__], "device_count", lambda: 4)
    x = torch.randn(40, 4)
    data = ch.data(x, (x[:, 0] > 0).long())
    with pytest.raises(ValueError, match="torchrun --nproc-per-node 4"):
        ch.fit([nn.Linear(4, 2)], data, epochs=1, batch_size=8, devices=devices)
    assert ch.fit([nn.Linear(4, 2)], data, epochs=1, batch_size=8, devices=1).table


@pytest.mark.parametrize(
    ("devices", "error"), [(0, ValueError), (2.0, TypeError), ("2", TypeError)]
)
def test_devices_that_are_no_number(devices: Any, error: type[Exception]) -> None:
    x = torch.randn(40, 4)
    data = ch.data(x, (x[:, 0] > 0).long())
    with pytest.raises(error, match="devices"):
        ch.fit([nn.Linear(4, 2)], data, epochs=1, batch_size=8, devices=devices)


def test_a_launched_process_without_a_group_is_told(ranks: Any) -> None:
    ended = ranks.run(RUN.replace("join()", "") + "ch.fit(nets, data, epochs=1)", 2)
    assert all("torch.distributed.init_process_group()" in err for err in ended.err)


def test_a_users_own_process_group_serves_too(ranks: Any, tmp_path: Path) -> None:
    init = f"""
import torch.distributed as dist
dist.init_process_group("gloo", init_method="file://{tmp_path / "store"}", rank=RANK,
                        world_size=SIZE)
"""
    (alone,) = ranks.run(RUN + FIT + TELL, 1).said
    ended = ranks.run(RUN.replace("join()", init) + FIT + TELL, 2)
    assert ended.codes == [0, 0], ended.err
    assert_close(alone, ended.said[0])
    assert json.dumps(ended.said[0]) == json.dumps(ended.said[1])
