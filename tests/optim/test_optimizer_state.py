"""The state of an optimizer: what goes out comes back, and what does not fit is refused."""

import copy

import pytest
import torch

import chimera as ch

EVERY = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"lr": [0.1, 0.2, 0.3], "momentum": [0.9, 0.0, 0.1]}),
    ("Adam", {}),
    ("AdamW", {"lr": [0.1, 0.2, 0.3]}),
    ("AdamW", {"betas": ([0.1, 0.2, 0.3], 0.9)}),
]
SHAPES = [(2, 2), (2,)]


def trained(stack, optimizer, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for one in stack.layout():
            p = one.parameter
            p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)
        optimizer.step()


def made(layout_class, name="AdamW", **settings):
    stack = layout_class([[0, 2], [1]], SHAPES)
    return stack, getattr(ch.optim, name)(stack, groups=[{"params": "**.bias"}], **settings)


@pytest.mark.parametrize(("name", "settings"), EVERY)
def test_goes_on_with_the_same_bits(layout_class, name, settings):
    stack, optimizer = made(layout_class, name, **settings)
    optimizer.set(lr=0.05, members=[1])
    trained(stack, optimizer, 3)
    state = copy.deepcopy(optimizer.state_dict())
    weights = [one.parameter.detach().clone() for one in stack.layout()]
    trained(stack, optimizer, 3, seed=1)

    nesterov = {"nesterov": True} if settings.get("nesterov") else {}
    other, again = made(layout_class, name, **({"momentum": 0.5} | nesterov if nesterov else {}))
    for one, weight in zip(other.layout(), weights, strict=True):
        one.parameter.data.copy_(weight)
    trained(other, again, 2, seed=5)
    for one, weight in zip(other.layout(), weights, strict=True):
        one.parameter.data.copy_(weight)
    again.load_state_dict(state)
    assert again.settings == optimizer.settings
    assert again.steps == 3
    trained(other, again, 3, seed=1)
    for a, b in zip(stack.layout(), other.layout(), strict=True):
        assert torch.equal(a.parameter, b.parameter)


def test_is_plain_but_for_tensors_by_parameter_name(layout_class):
    stack, optimizer = made(layout_class, lr=torch.rand(3))
    trained(stack, optimizer, 1)
    state = optimizer.state_dict()
    assert set(state["state"]) == {one.name for one in stack.layout()}
    assert state["optimizer"] == "AdamW"
    assert isinstance(state["groups"][0]["lr"], list)
    for tensors in state["state"].values():
        assert {name: type(t) for name, t in tensors.items()} == dict.fromkeys(
            ("step", "exp_avg", "exp_avg_sq"), torch.Tensor
        )


def test_loading_copies(layout_class):
    stack, optimizer = made(layout_class)
    trained(stack, optimizer, 1)
    state = copy.deepcopy(optimizer.state_dict())
    kept = copy.deepcopy(state)
    optimizer.load_state_dict(state)
    trained(stack, optimizer, 1)
    for name, tensors in state["state"].items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, kept["state"][name][key])


WEIGHT = "groups.0.layers.0.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("steps"), r"lacks \['steps'\]"),
        (lambda s: s.update(more=1), r"has \['more'\] too many"),
        (lambda s: s.update(optimizer="SGD"), "of optimizer 'SGD', not 'AdamW'"),
        (lambda s: s.update(members=4), "of members 4, not 3"),
        (lambda s: s.update(options={"nesterov": True}), "of options"),
        (lambda s: s.update(steps=-1), "steps is a count; got -1"),
        (lambda s: s["groups"].pop(), "has 1 parameter groups, not 2"),
        (lambda s: s["groups"][0].pop("lr"), r"group 0 lacks \['lr'\]"),
        (lambda s: s["groups"][0].update(lr=[0.1]), "1 values came"),
        (lambda s: s["groups"][0].update(lr=-1), "lr is 0 or more"),
        (lambda s: s["groups"][0]["params"].pop(), "other parameters; they differ in"),
        (lambda s: s["state"].update(other={}), r"not there: \['other'\]"),
        (lambda s: s["state"][WEIGHT].pop("exp_avg"), r"groups\.0\.layers\.0\.weight lacks"),
        (
            lambda s: s["state"][WEIGHT].update(exp_avg=torch.rand(2)),
            r"exp_avg of .* is \(2,\), not a tensor of \(2, 2, 2\)",
        ),
        (lambda s: s["state"][WEIGHT].update(step=3), "step of .* is int"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changed(layout_class, change, words):
    stack, optimizer = made(layout_class)
    trained(stack, optimizer, 2)
    state = copy.deepcopy(optimizer.state_dict())
    before = copy.deepcopy(state)
    change(state)
    with pytest.raises(ValueError, match=words):
        optimizer.load_state_dict(state)
    now = optimizer.state_dict()
    assert now["groups"] == before["groups"]
    assert now["steps"] == before["steps"]
    for name, tensors in before["state"].items():
        assert all(torch.equal(tensor, now["state"][name][key]) for key, tensor in tensors.items())


def test_a_state_that_is_none_is_refused(layout_class):
    _, optimizer = made(layout_class)
    with pytest.raises(TypeError, match=r"AdamW: a state is a dict as state_dict\(\) gives it"):
        optimizer.load_state_dict(3)


def test_a_text_is_no_flag(layout_class):
    stack, _ = made(layout_class)
    with pytest.raises(TypeError, match="SGD: nesterov must be True or False, got 'no'"):
        ch.optim.SGD(stack, momentum=0.9, nesterov="no")
