"""CUDA graphs: what is copied, kept and captured anew, by a recorder that needs no GPU."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import chimera as ch
from chimera.engine import choice
from chimera.engine.captured import CudaGraphs, as_recorded, captured


class Fake:
    """Replays by running the work again into the memory of its first results."""

    def __init__(self):
        self.warmed = self.recorded = self.replayed = 0

    def warm(self, work):
        self.warmed += 1
        return work()

    def record(self, work, changed):
        self.recorded += 1
        kept = [tensor.clone() for tensor in changed]
        results = [None if r is None else r.clone() for r in work()]
        for tensor, value in zip(changed, kept, strict=True):
            tensor.copy_(value)

        def replay():
            self.replayed += 1
            for place, new in zip(results, work(), strict=True):
                if place is not None:
                    place.copy_(new)

        return replay, results


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(6, 5), nn.BatchNorm1d(5)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(5, 4)

    def forward(self, x):
        return self.last(self.drop(torch.tanh(self.norm(self.first(x)))))


@pytest.fixture
def fake(monkeypatch):
    recorder = Fake()
    monkeypatch.setattr(choice.Graphed, "compiler", lambda self: captured(as_recorded, recorder))
    monkeypatch.setattr(
        "chimera.engine.step.rule_of",
        lambda engine, device: choice.Graphed() if engine == "graphed" else None,
    )
    return recorder


def trained(engine, steps=8, **settings):
    torch.manual_seed(0)
    stack = ch.Stack(ch.instances(lambda: Net().double(), 3), seed=3)
    optimizer = ch.optim.AdamW(stack, lr=[1e-3, 1e-2, 3e-2])
    step = ch.train_step(stack, F.cross_entropy, optimizer, engine=engine, **settings)
    losses = []
    for number in range(steps):
        x, y = torch.randn(3, 8, 6, dtype=torch.float64), torch.randint(0, 4, (8,))
        if number == 5:
            optimizer.set(lr=1e-3, members=[2])
        losses.append(step(ch.each(x), y))
    return stack, torch.stack(losses), step


def same(one, other):
    torch.testing.assert_close(one[1], other[1], rtol=1e-9, atol=1e-12)
    for name, tensor in one[0].state_dict().items():
        torch.testing.assert_close(other[0].state_dict()[name], tensor, rtol=1e-6, atol=1e-8)


def test_replayed_steps_equal_eager_with_new_data_draws_and_settings(fake):
    same(trained("eager"), trained("graphed"))
    # Two eager calls, one beside it on copies, one apart on the stack's tensors, then captured.
    assert (fake.warmed, fake.recorded, fake.replayed) == (2, 1, 4)


def test_a_hook_parts_the_graph_in_two(fake):
    seen = []
    settings = {"before_update": lambda losses: seen.append(losses.clone()), "clip": 0.1}
    same(trained("eager", **settings), trained("graphed", **settings))
    assert fake.recorded == 2
    torch.testing.assert_close(torch.stack(seen[:8]), torch.stack(seen[8:]))


def test_other_tensors_are_captured_anew(fake):
    _, _, step = trained("graphed")
    x, y = torch.randn(8, 6, dtype=torch.float64), torch.randint(0, 4, (8,))
    step.optimizer.load_state_dict(step.optimizer.state_dict())  # copies: other memory
    for _ in range(5):
        step(x, y)  # another kind of call
    assert fake.recorded == 2
    before = fake.recorded
    step.optimizer.load_state_dict(step.optimizer.state_dict())
    losses = [step(x, y) for _ in range(3)]
    assert fake.recorded == before + 1
    assert torch.isfinite(torch.stack(losses)).all()


def test_a_result_outlives_the_next_step(fake):
    _, _, step = trained("graphed")
    x, y = ch.each(torch.randn(3, 8, 6, dtype=torch.float64)), torch.randint(0, 4, (8,))
    first = step(x, y)
    kept = first.clone()
    step(x, y)
    assert torch.equal(first, kept)


def test_what_cannot_be_captured_runs_as_recorded_and_is_said_once(fake, monkeypatch):
    def refuse(work, changed):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(fake, "record", refuse)
    expected = trained("eager")
    with pytest.warns(ch.ChimeraWarning, match="could not be captured .*not permitted") as caught:
        found = trained("graphed")
    same(expected, found)
    assert len([w for w in caught if "captured" in str(w.message)]) == 1
    assert "more" not in str(caught[0].message)


def test_without_a_gpu_it_is_one_error():
    stack = ch.Stack(ch.instances(Net, 2))
    with pytest.raises(ValueError, match=r"engine='graphed' .* on cpu; .* engine='auto'"):
        ch.train_step(stack, F.cross_entropy, ch.optim.SGD(stack), engine="graphed")
    with pytest.raises(ValueError, match="on cpu"):
        ch.infer(stack, engine="graphed")


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["graphed", "auto", "measure", "compiled"])
def test_on_a_gpu_every_engine_equals_eager(engine):
    runs = []
    for name in ("eager", engine):
        torch.manual_seed(0)
        stack = ch.Stack(ch.instances(lambda: Net().double(), 3), seed=3).to("cuda")
        step = ch.train_step(
            stack, F.cross_entropy, ch.optim.AdamW(stack, lr=[1e-3, 1e-2, 3e-2]), engine=name
        )
        losses = []
        for _ in range(20):
            x, y = torch.randn(3, 8, 6, dtype=torch.float64), torch.randint(0, 4, (8,))
            losses.append(step(ch.each(x.cuda()), y.cuda()))
        runs.append((stack, torch.stack(losses)))
    assert step.settled
    same(*runs)


@pytest.mark.gpu
def test_on_a_gpu_the_recorder_replays():
    recorder = CudaGraphs()
    x = torch.ones(3, device="cuda")
    total = torch.zeros(3, device="cuda")

    def work():
        total.add_(x)
        return [total * 2]

    recorder.warm(work)
    replay, (result,) = recorder.record(work, [total])
    total.zero_()
    for _ in range(3):
        replay()
    assert total.tolist() == [3, 3, 3]
    assert result.tolist() == [6, 6, 6]
