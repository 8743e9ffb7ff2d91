"""While and Cond in exported graphs: equal to the blocks themselves, on inputs of every outcome."""

import pytest
import torch
from torch import nn

import chimera as ch

# torch itself looks at `.grad` while it traces, and hides the warning unless warnings are errors.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


def large(x):
    return x.abs().sum() > 1


class HalvesInPlace(nn.Module):
    def forward(self, x):
        return x.mul_(0.5)


class Shrinks(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) / 3


class Counts(nn.Module):
    """Changes a buffer: in place, or by another in its place."""

    def __init__(self, replace=False):
        super().__init__()
        self.replace = replace
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        if self.replace:
            self.calls = self.calls + 1
        else:
            self.calls += 1
        return x * 0.5


def halve(x):
    return x * 0.5


NETS = {
    "body of layers": lambda: ch.While(large, nn.Sequential(Shrinks(), nn.ReLU()), 10),
    "body in place": lambda: ch.While(large, HalvesInPlace(), 50),
    "activation in place": lambda: ch.While(
        large, nn.Sequential(Shrinks(), nn.ReLU(inplace=True)), 50
    ),
    "function": lambda: ch.While(large, halve, 50),
    "limit": lambda: ch.While(large, nn.Identity(), 5),
    "no turn": lambda: ch.While(lambda x: x.sum() < -1e9, halve, 5),
    "condition with weights": lambda: ch.While(
        nn.Sequential(nn.Flatten(0), nn.Linear(12, 1)), halve, 5
    ),
    "norm that only reads": lambda: ch.While(
        large, nn.Sequential(nn.BatchNorm1d(4), Shrinks()), 5
    ).eval(),
    "branches": lambda: ch.Cond(large, nn.Linear(4, 4), nn.Identity()),
    "branch in place": lambda: ch.Cond(large, HalvesInPlace(), nn.Identity()),
    "condition on shapes": lambda: ch.Cond(lambda x: x.shape[1] > 2, Shrinks(), nn.Identity()),
    "nested": lambda: ch.While(
        large,
        ch.Sequential(
            ch.Cond(lambda x: x.max() > 3, Shrinks(), halve),
            ch.While(lambda x: x.sum() > 20, lambda x: x - 0.1, 30),
        ),
        20,
    ),
    "among other blocks": lambda: ch.Sequential(
        nn.Linear(4, 4), ch.Residual(ch.While(large, halve, 50)), nn.ReLU()
    ),
    "behind one another": lambda: ch.Sequential(
        nn.Linear(4, 4), ch.While(large, halve, 50), ch.Cond(large, Shrinks(), nn.Linear(4, 4))
    ),
    "a state of two": lambda: ch.Sequential(
        ch.Parallel(nn.Identity(), nn.Linear(4, 4), combine="tuple"),
        ch.While(lambda state: large(state[0]), lambda state: (state[0] * 0.5, state[1] + 1), 9),
    ),
}


def assert_equal_to_the_network(net, exported):
    for scale in (10, 0.01, 3):
        x = torch.rand(3, 4) * scale
        kept = x.clone()
        torch.testing.assert_close(exported(x), net(x.clone()))
        assert torch.equal(x, kept)


@pytest.mark.parametrize("name", NETS)
def test_an_exported_network_is_the_network(name):
    torch.manual_seed(0)
    net = NETS[name]()
    program = torch.export.export(net, (torch.rand(3, 4) * 10,))
    assert_equal_to_the_network(net, program.module())


@pytest.mark.parametrize("name", ["body in place", "nested"])
def test_strictly_traced(name):
    torch.manual_seed(0)
    net = NETS[name]()
    program = torch.export.export(net, (torch.rand(3, 4) * 10,), strict=True)
    assert_equal_to_the_network(net, program.module())


def test_a_free_batch():
    net = ch.Sequential(nn.Linear(4, 4), ch.While(large, halve, 50))
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(net, (torch.rand(3, 4),), dynamic_shapes={"inputs": shapes})
    for rows in (2, 5, 9):
        x = torch.rand(rows, 4) * 4
        torch.testing.assert_close(program.module()(x), net(x))


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11, loading
def test_an_exported_program_is_saved_and_loaded(tmp_path):
    net = ch.While(large, Shrinks(), 10)
    torch.export.save(torch.export.export(net, (torch.rand(3, 4),)), tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2")
    assert_equal_to_the_network(net, program.module())


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (ch.While(large, Counts(), 5), r"While: body changes body\.calls.*hand it through"),
        (ch.While(large, Counts(replace=True), 5), r"body changes body\.calls"),
        (ch.While(large, nn.Sequential(Shrinks(), Counts()), 5), r"body changes body\.1\.calls"),
        (
            ch.While(large, nn.Sequential(Shrinks(), nn.BatchNorm1d(4)), 5),
            r"body changes body\.1\.running_mean.*call \.eval\(\) before",
        ),
        (ch.Cond(large, Counts(), nn.Identity()), r"Cond: then changes then\.calls"),
        (ch.Cond(large, nn.Identity(), Counts()), r"Cond: otherwise changes otherwise\.calls"),
        (
            ch.While(large, lambda x: x[:, :2], 5),
            r"body makes float32 \(3, 2\) of float32 \(3, 4\); the state",
        ),
        (ch.While(large, lambda x: x.double() / 2, 5), r"float64 \(3, 4\) of float32"),
        (ch.While(lambda x: x > 1, halve, 5), r"shape \(3, 4\).*use \.any\(\)"),
    ],
)
def test_what_an_exported_block_cannot_keep_is_refused_by_name(net, words):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        torch.export.export(net, (torch.rand(3, 4) * 10,))
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_state_of_numbers_is_refused():
    class Starts(nn.Module):
        def __init__(self):
            super().__init__()
            self.loop = ch.While(lambda state: state[0].sum() > 1, lambda state: state, 3)

        def forward(self, x):
            return self.loop((x, 1))[0]

    with pytest.raises(TypeError, match="to be exported it is a tensor or nested tensors"):
        torch.export.export(Starts(), (torch.rand(3, 4),))
