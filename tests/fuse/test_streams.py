"""Branches on streams of their own: the order of things, on streams that write it down."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import chimera as ch
from chimera.fuse import block, streams
from chimera.fuse.streams import MOST, at_once, estimated, may_draw, pays


class Stream:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log, self.events = name, log, 0

    def record_event(self) -> str:
        self.events += 1
        self.log.append(f"{self.name} records {self.events}")
        return f"{self.name} {self.events}"

    def wait_event(self, event: str) -> None:
        self.log.append(f"{self.name} waits for {event}")


class Written:
    """Queues that run at once, and write down what they are told."""

    def __init__(self, captures: bool = True) -> None:
        self.log: list[str] = []
        self.kept: list[tuple[int, str]] = []
        self.main, self.sides = Stream("main", self.log), {}
        self.now, self._captures = self.main, captures

    def current(self) -> Stream:
        return self.now

    def side(self, number: int) -> Stream:
        return self.sides.setdefault(number, Stream(f"side{number}", self.log))

    @contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        before, self.now = self.now, stream
        try:
            yield
        finally:
            self.now = before

    def keep(self, tensor: Tensor, stream: Stream) -> None:
        self.kept.append((id(tensor), stream.name))

    def capturing(self) -> bool:
        return self._captures


def tasks(queues: Written, count: int) -> list[Any]:
    def task(i: int) -> Any:
        def run() -> Tensor:
            queues.log.append(f"{queues.now.name} runs {i}")
            return torch.full((1,), float(i))

        return run

    return [task(i) for i in range(count)]


def test_branches_fork_and_join() -> None:
    queues, x = Written(), torch.ones(2)
    made = at_once(queues, tasks(queues, 3), [1.0, 5.0, 3.0], [x], in_order=False)
    assert [float(one) for one in made] == [0, 1, 2]
    assert queues.log == [
        "main records 1",
        *("side0 waits for main 1", "side0 runs 1"),
        *("side1 waits for main 1", "side1 runs 2"),
        *("side2 waits for main 1", "side2 runs 0"),
        *("side0 records 1", "main waits for side0 1"),
        *("side1 records 1", "main waits for side1 1"),
        *("side2 records 1", "main waits for side2 1"),
    ]
    assert [(id(x), f"side{i}") for i in range(3)] == queues.kept[:3]
    assert [(id(one), "main") for one in made] == queues.kept[3:]


def test_the_longest_start_first_and_loads_are_even() -> None:
    queues = Written()
    works = [1.0, 4.0, 1.0, 2.0, 9.0, 3.0, 1.0, 2.0, 1.0, 1.0]
    at_once(queues, tasks(queues, len(works)), works, [], in_order=False)
    ran = [line for line in queues.log if " runs " in line]
    assert ran[:3] == ["side0 runs 4", "side1 runs 1", "side2 runs 5"]
    assert len({line.split()[0] for line in ran}) == MOST
    assert sum(line.startswith("side0 runs") for line in ran) == 1


def test_what_draws_starts_in_order() -> None:
    queues = Written()
    at_once(queues, tasks(queues, 3), [1.0, 5.0, 3.0], [], in_order=True)
    assert [line.split()[-1] for line in queues.log if " runs " in line] == ["0", "1", "2"]


def test_an_error_joins_all_the_same() -> None:
    queues = Written()

    def fails() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        at_once(queues, [*tasks(queues, 1), fails], [1.0, 1.0], [], in_order=True)
    assert queues.log[-1] == "main waits for side1 1"
    assert queues.now is queues.main


def test_when_it_pays() -> None:
    assert "of one graph" in pays(Written(), [1.0, 1.0])
    assert not pays(Written(captures=False), [1.0, 1.0])
    assert pays(Written(captures=False), [1e9, 1e9]) == "on 2 streams"
    assert not pays(Written(), [1e12, 1.0])


def test_work_and_draws_of_a_branch() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    assert estimated(net, (torch.randn(3, 6),)) == 2 * 3 * (6 * 5 + 5 + 5 * 4 + 4)
    assert estimated(nn.Conv2d(3, 4, 3, bias=False), (torch.randn(2, 3, 8, 8),)) == 2 * 108 * 128
    assert not may_draw(net)
    assert may_draw(nn.Sequential(net, nn.Dropout()))
    assert not may_draw(nn.Sequential(net, nn.Dropout()).eval())
    assert may_draw(nn.LSTM(2, 2, 2, dropout=0.5))

    class Own(nn.Module):
        pass

    assert may_draw(Own())


@pytest.mark.parametrize("fused", [True, False])
def test_a_block_uses_the_streams_of_its_device(
    monkeypatch: pytest.MonkeyPatch, fused: bool
) -> None:
    queues = Written()
    monkeypatch.setattr(block, "queues_of", lambda device: queues)
    monkeypatch.setattr(block, "_on_gpu", lambda given: True)
    torch.manual_seed(0)
    alike = [nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)) for _ in range(8)]
    others = [
        nn.Linear(6, 2),
        nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 2)),
        nn.Tanh(),
    ]
    net = ch.Parallel(*(alike if fused else []), *others)
    net = net.double()
    fast, x = ch.fuse(net), torch.randn(4, 6).double()
    torch.testing.assert_close(fast(x), net(x))
    assert sum("waits for main" in line for line in queues.log) == 3
    assert "ran what was not fused on 3 streams of one graph" in str(ch.explain(fast))
    fast(x).sum().backward()
    net(x).sum().backward()
    for a, b in zip(net.parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_cpu_has_none() -> None:
    assert streams.queues_of(torch.device("cpu")) is None


@pytest.mark.gpu
def test_on_a_gpu_and_in_a_graph() -> None:
    branches = [nn.Linear(64, 32), nn.Sequential(nn.Linear(64, 16), nn.ReLU()), nn.Tanh()]
    net = ch.Parallel(*branches).cuda()
    fast, x = ch.fuse(net), torch.randn(8, 64, device="cuda")
    graph = torch.cuda.CUDAGraph()
    fast(x)
    with torch.no_grad(), torch.cuda.graph(graph):
        made = fast(x)
    graph.replay()
    torch.testing.assert_close(made, net(x))
    assert "streams of one graph" in str(ch.explain(fast))
