import pytest
import torch
from torch import nn

import chimera as ch


class Scaled(nn.Module):
    """Has a parameter of its own that no method draws again."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(3))
        self.linear = nn.Linear(4, 3)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.linear(x)) * self.scale


def test_reinitialize_draws_again_by_path_and_names_what_it_could_not():
    nets = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        net = nn.Sequential(Scaled(), nn.Sequential(nn.Linear(3, 3)))
        net(torch.rand(5, 4))
        with pytest.warns(ch.ChimeraWarning, match=r"not drawn again.*: 0\.scale$"):
            nets.append(ch.build(net, ch.spec(5, 4), seed=7, reinitialize=True))
    one, two = (dict(net.state_dict()) for net in nets)
    differing = [name for name in one if not torch.equal(one[name], two[name])]
    assert differing == ["0.scale"]
    assert (one["0.norm.running_mean"] == 0).all()
    other = ch.build(
        nn.Sequential(nn.Identity(), nn.Sequential(nn.LazyLinear(3))), ch.spec(2, 3), seed=7
    )
    assert torch.equal(other[1][0].weight, nets[0][1][0].weight)


def test_parents_draw_after_their_children():
    class Zeroed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def reset_parameters(self):
            nn.init.zeros_(self.linear.weight)

        def forward(self, x):
            return self.linear(x)

    net = ch.build(Zeroed(), ch.spec(2, 3), reinitialize=True)
    assert (net.linear.weight == 0).all()
    assert (net.linear.bias != 0).any()


def test_a_tied_parameter_is_drawn_if_any_owner_can():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.weight = self.linear.weight

        def forward(self, x):
            return self.linear(x) @ self.weight

    ch.build(Tied(), ch.spec(2, 3), reinitialize=True)


def test_schemes_by_pattern():
    def net():
        return nn.ModuleDict(
            {"body": nn.Sequential(nn.LazyConv1d(4, 1), nn.Flatten(), nn.LazyLinear(3))}
        )["body"]

    built = ch.build(
        net(),
        ch.spec(2, 3, 5),
        seed=1,
        init={"**": nn.init.ones_, "**.weight": nn.init.orthogonal_, "2.bias": nn.init.zeros_},
    )
    assert (built[0].bias == 1).all()
    assert (built[2].bias == 0).all()
    gram = built[2].weight @ built[2].weight.T
    assert torch.allclose(gram, torch.eye(3), atol=1e-5)
    again = ch.build(net(), ch.spec(2, 3, 5), seed=1, init={"2.weight": nn.init.orthogonal_})
    assert torch.equal(built[2].weight, again[2].weight)
    assert built[0].weight.requires_grad


def test_a_pattern_that_matches_nothing_is_named_and_nothing_changed():
    net = nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(2))
    before = net[0].weight.clone()
    with pytest.raises(
        ValueError, match=r"no parameter matches '\*\*\.conv\*'; the parameters are 0"
    ):
        ch.build(net, ch.spec(2, 3), init={"**": nn.init.zeros_, "**.conv*": nn.init.ones_})
    assert torch.equal(net[0].weight, before)
    assert type(net[1]) is nn.LazyLinear


def test_a_scheme_that_fails_names_the_parameter_and_changes_nothing():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        ch.build(net, ch.spec(2, 3), init={"**": nn.init.xavier_normal_}, reinitialize=True)
    assert "for 0.bias, a parameter [3]" in caught.value.__notes__[0]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("xavier", "init must map patterns of paths to functions; got 'xavier'"),
        ({3: nn.init.ones_}, "a pattern must be a str"),
        ({"**": "xavier"}, r"init\['\*\*'\] must be a function of a tensor"),
    ],
)
def test_a_wrong_init_is_named(init, message):
    with pytest.raises(TypeError, match=message):
        ch.build(nn.Linear(2, 2), ch.spec(2, 2), init=init)


@pytest.mark.parametrize("pattern", ["**.weight", "norm.*"])
def test_a_scheme_and_lazy_buffers(pattern):
    net = nn.Sequential()
    net.linear, net.norm = nn.LazyLinear(3), nn.LazyBatchNorm1d()
    ch.build(net, ch.spec("batch", 5), init={pattern: nn.init.zeros_})
    assert not net.norm.weight.any()
    assert net.norm.running_var.tolist() == [1, 1, 1]


def test_a_failing_scheme_leaves_lazy_buffers_as_they_were():
    net = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    with pytest.raises(ValueError, match=r"no parameter matches 'nothing'"):
        ch.build(net, ch.spec("batch", 5), init={"nothing": nn.init.zeros_})
    assert all(nn.parameter.is_lazy(tensor) for tensor in (*net.parameters(), net[1].running_mean))
    ch.build(net, ch.spec("batch", 5))
    assert net[1].running_mean.shape == (3,)
