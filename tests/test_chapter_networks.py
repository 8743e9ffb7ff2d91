"""The chapter's networks, and every row of "Why it exists": plain torch fails, Chimera does not."""

import importlib.util
import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

import chimera as ch

EXAMPLE = Path(__file__).parents[1] / "examples" / "layers_and_modules.py"


def loaded():
    spec = importlib.util.spec_from_file_location("layers_and_modules", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


nets = loaded()
SPEC = ch.spec(2, 20)
pytestmark = pytest.mark.filterwarnings("ignore::chimera.ChimeraWarning")


def plain_chimera():
    return nn.Sequential(nets.Nested(), nn.LazyLinear(20), nets.FixedHidden())


def parameters(net):
    return sum(parameter.numel() for parameter in net.parameters())


# The networks ------------------------------------------------------------------------------------


def test_one_network_three_ways():
    x, outputs = torch.rand(2, 20), []
    made = [
        nets.perceptron(),
        nets.Perceptron(),
        nets.Chain(nn.LazyLinear(256), nn.ReLU(), nn.LazyLinear(10)),
    ]
    state = None
    for net in made:
        net = ch.build(net, SPEC, seed=0)
        assert parameters(net) == 20 * 256 + 256 + 256 * 10 + 10
        values = list(net.state_dict().values())
        state = state or [value.clone() for value in values]
        with torch.no_grad():
            for mine, first in zip(values, state, strict=True):
                mine.copy_(first)
        outputs.append(net(x))
    assert outputs[0].shape == (2, 10)
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_the_fixed_hidden_network_in_plain_python_and_in_blocks():
    plain, blocks = (
        ch.build(kind, SPEC, seed=0) for kind in (nets.FixedHidden, nets.FixedHiddenInBlocks)
    )
    with torch.no_grad():
        blocks.linear.load_state_dict(plain.linear.state_dict())
        blocks.mixing.value.copy_(plain.mixing)
    for scale in (0.01, 1.0, 1e4):
        x = scale * torch.rand(2, 20)
        outputs = [net(x) for net in (plain, blocks)]
        assert torch.equal(*outputs)
        grads = [
            torch.autograd.grad(out, list(net.parameters()))
            for out, net in zip(outputs, (plain, blocks), strict=True)
        ]
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert [name for name, _ in plain.named_parameters()] == ["linear.weight", "linear.bias"]
    assert outputs[0].abs() <= 1


def test_the_chimera_is_what_plain_torch_computes():
    net, plain = ch.build(nets.chimera, SPEC, seed=0), plain_chimera()
    x = torch.rand(2, 20)
    plain(x)
    plain[2].mixing = net[2].mixing
    missing = plain.load_state_dict(net.state_dict(), strict=False)
    assert missing.unexpected_keys == ["2.mixing"]
    assert torch.equal(net(x), plain(x))


def test_side_by_side_and_over_the_devices_present():
    x = torch.rand(2, 20)
    both = ch.build(nets.side_by_side(), SPEC, seed=0)
    assert torch.equal(both(x), torch.cat([branch(x) for branch in both], dim=1))
    spread = ch.build(nets.side_by_side(nets.present()), SPEC, seed=0)
    torch.testing.assert_close(spread(x.to(nets.present()[0])).cpu(), both(x))
    out = spread(x.to(nets.present()[0]))
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in spread.parameters())


def test_three_instances_differ_and_join_where_sizes_meet():
    net = nets.joined(10)
    assert len({p.detach().sum().item() for p in net.parameters()}) == 12
    assert net(torch.rand(32, 10)).shape == (32, 10)
    assert ch.check(net, ch.spec(32, 10)) == []


def test_layers_in_a_list_are_found():
    net = nets.ListChain(nn.Linear(20, 5))
    assert net(torch.rand(2, 20)).shape == (2, 5)
    assert list(net.parameters()) == []
    (finding,) = ch.check(net, SPEC)
    assert (finding.rule, finding.severity) == ("unregistered-module", "error")


def test_the_plain_tensor_is_found():
    found = {finding.rule for finding in ch.check(nets.FixedHidden(), SPEC)}
    assert "plain-tensor" in found
    assert ch.check(nets.FixedHiddenInBlocks(), SPEC) == []


# Why it exists -----------------------------------------------------------------------------------


def test_parameters_are_counted_before_any_data():
    with pytest.raises(ValueError, match="uninitialized parameter"):
        parameters(plain_chimera())
    plain = plain_chimera()
    plain(torch.rand(2, 20))
    assert ch.shapes(nets.chimera, SPEC).parameters == parameters(plain)
    assert parameters(ch.build(nets.chimera, SPEC)) == parameters(plain)


def test_shapes_are_checked_without_data():
    with torch.device("meta"):
        plain = plain_chimera()
    with pytest.raises(RuntimeError, match="meta"):
        plain(torch.rand(2, 20, device="meta"))
    assert "total" in str(ch.shapes(nets.chimera, SPEC))
    narrow = ch.Sequential(nets.Nested(), nn.Linear(17, 20), nets.FixedHidden())
    with pytest.raises(RuntimeError) as caught:
        ch.shapes(narrow, SPEC)
    note = "\n".join(caught.value.__notes__)
    assert "at 1: Linear(in_features=17" in note
    assert "from 0.linear" in note


def test_everything_moves():
    x = torch.rand(2, 20, dtype=torch.float64)
    plain = plain_chimera()
    plain(x.float())
    with pytest.raises(RuntimeError, match="same dtype|Double|double"):
        plain.double()(x)
    for make in (nets.chimera, plain_chimera, nets.FixedHiddenInBlocks):
        net = ch.build(make, SPEC, seed=0).double()
        assert net(x).dtype == torch.float64
        net.to("meta")
        tensors = [t for m in net.modules() for t in vars(m).values() if torch.is_tensor(t)]
        assert all(t.is_meta for t in (*net.state_dict().values(), *tensors))
    assert not plain.to("meta")[2].mixing.is_meta


def saved_and_loaded(net, other):
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))


def test_a_loaded_network_computes_the_same():
    x = torch.rand(2, 20)
    plain, other = plain_chimera(), plain_chimera()
    plain(x), other(x)
    saved_and_loaded(plain, other)
    assert plain(x) != other(x)
    for make in (nets.chimera, plain_chimera, nets.FixedHiddenInBlocks):
        net, other = ch.build(make, SPEC, seed=0), ch.build(make, SPEC, seed=1)
        assert net(x) != other(x)
        saved_and_loaded(net, other)
        assert torch.equal(net(x), other(x))


def test_two_hundred_instances_run_as_one():
    x = torch.rand(2, 20)
    members = ch.instances(nets.FixedHidden, 200, seed=0, spec=SPEC)
    state = stack_module_state(members)

    def one(parameters, buffers):
        return functional_call(members[0], (parameters, buffers), (x,))

    with pytest.raises(RuntimeError, match="data-dependent control flow"):
        vmap(one)(*state)

    wanted = torch.stack([member(x) for member in members])
    wanted.sum().backward()
    for kind in (nets.FixedHidden, nets.FixedHiddenInBlocks):
        if kind is nets.FixedHiddenInBlocks:
            blocks = ch.instances(kind, 200, seed=0, spec=SPEC)
            for block, member in zip(blocks, members, strict=True):
                block.linear.load_state_dict(member.linear.state_dict())
                block.mixing.value.copy_(member.mixing)
            stack = ch.Stack(blocks)
        else:
            stack = ch.Stack(members)
        out = stack(x)
        torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-6)
        out.sum().backward()
        grads = {entry.name.split(".", 2)[2]: entry.parameter.grad for entry in stack.layout()}
        for position, member in enumerate(members):
            for name, parameter in member.named_parameters():
                close = grads[name][position], parameter.grad
                torch.testing.assert_close(*close, rtol=1e-4, atol=1e-5)


def turns(member, x):
    count, x = 0, member.linear(torch.relu(member.linear(x) @ member.mixing + 1))
    while x.abs().sum() > 1:
        count, x = count + 1, x / 2
    return count


def test_their_numbers_of_turns_really_differ():
    members = ch.instances(nets.FixedHidden, 200, seed=0, spec=SPEC)
    x = torch.rand(2, 20)
    assert len({turns(member, x) for member in members}) > 2


def test_a_joint_that_does_not_fit_is_named_before_running():
    plain = nn.Sequential(*(nets.Funnel(10, 5) for _ in range(3)))
    with pytest.raises(RuntimeError) as caught:
        plain(torch.rand(32, 10))
    said = str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))
    assert "32x5 and 10x20" in said
    assert "layers" not in said
    for look in (ch.build, ch.shapes):
        with pytest.raises(RuntimeError) as caught:
            look(nets.joined(5), ch.spec(32, 10))
        note = "\n".join(caught.value.__notes__)
        assert "at 1.layers.0" in note
        assert "from 0.layers.2" in note
    (finding,) = ch.check(nets.joined(5), ch.spec(32, 10))
    assert (finding.severity, finding.path) == ("error", "1.layers.0")


def test_a_layer_that_stands_twice_runs_twice():
    layer, x = nn.Linear(20, 20), torch.rand(2, 20)
    wanted = layer(torch.relu(layer(x)))
    chain = nets.Chain(layer, nn.ReLU(), layer)
    assert torch.equal(chain(x), torch.relu(layer(x)))
    assert torch.equal(ch.Sequential(layer, nn.ReLU(), layer)(x), wanted)
    assert not torch.equal(chain(x), wanted)
    errors = [f.rule for f in ch.check(chain, SPEC) if f.severity == "error"]
    assert errors == ["children-drop-repeats"]
    sound = ch.check(ch.Sequential(layer, nn.ReLU(), layer), SPEC)
    assert all(finding.severity == "info" for finding in sound)


def test_branches_side_by_side_leave_their_input_alone():
    x = torch.rand(2, 20) - 0.5
    kept = x.clone()
    branches = [nn.Identity(), nn.ReLU(inplace=True)]
    ch.Parallel(*branches)(x)
    assert torch.equal(x, kept)
    torch.cat([branch(x) for branch in branches], dim=1)
    assert not torch.equal(x, kept)


def test_the_example_runs_as_a_script():
    ran = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", str(EXAMPLE)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    for words in ("4,712", "at 1.layers.0", "children-drop-repeats", "masked turns"):
        assert words in ran.stdout
