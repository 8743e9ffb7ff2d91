"""The figures of a summary: against torch's own, and that nothing is changed."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import chimera as ch
from chimera.summary.watch import Watch

TOKENS = ch.spec(2, 9, dtype=torch.int64)


def counted(net: nn.Module, *shape: int) -> int:
    """Multiply-adds as torch counts them. (A CPU's fused LSTM hides its products: so on meta.)"""
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(net).to("meta")(torch.empty(shape, device="meta"))
    return counter.get_total_flops() // 2


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 16, 3, groups=4),
        nn.ConvTranspose2d(16, 4, 2, stride=2),
        nn.Flatten(),
        nn.LazyLinear(10),
    )


def attentive() -> nn.Module:
    return nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2, enable_nested_tensor=False
    )


@pytest.mark.parametrize(
    ("factory", "shape"),
    [
        (convolutional, (2, 3, 32, 32)),
        (attentive, (2, 7, 16)),
        (lambda: nn.LSTM(6, 8, 2, batch_first=True, bidirectional=True), (2, 5, 6)),
        (lambda: ch.Repeat(nn.Linear, 3, 8, 8, share=True), (4, 8)),
    ],
    ids=["convolutional", "attentive", "recurrent", "shared"],
)
def test_the_figures_are_torch_s(factory, shape) -> None:
    net = factory()
    report = ch.summary(net, ch.spec(*shape))
    built = ch.build(copy.deepcopy(net), ch.spec(*shape))
    assert report.parameters == sum(parameter.numel() for parameter in built.parameters())
    assert report.buffers == sum(buffer.numel() for buffer in built.buffers())
    assert report.multiply_adds == counted(built, *shape)
    for path, module in built.named_modules():
        node = report[path]
        assert node.own == sum(p.numel() for p in module.parameters(recurse=False))
        assert node.parameters == sum(p.numel() for p in module.parameters())
        assert node.multiply_adds >= sum(child.multiply_adds for child in node.children)


def test_a_part_has_the_multiply_adds_that_it_has_alone(branched: nn.Module) -> None:
    report = ch.summary(branched, ch.spec(2, 3, 16, 16))
    x = torch.randn(2, 3, 16, 16)
    for path, module in branched.named_children():
        assert report[path].multiply_adds == counted(module, *x.shape)
        x = module(x)
    inner = branched[2][1]
    assert report["2.1"].multiply_adds == counted(inner, 2, 8, 16, 16)


def test_activations_are_what_autograd_keeps() -> None:
    net = nn.Sequential(nn.Linear(20, 300), nn.ReLU(), nn.Linear(300, 4))
    report = ch.summary(net, ch.spec(8, 20))
    # The input belongs to the caller; the hidden values before ReLU are not kept.
    assert report.activations == 8 * 300 * 4
    assert report["1"].activations == report.activations
    net.requires_grad_(False)
    assert ch.summary(net, ch.spec(8, 20)).activations == 0


@pytest.mark.parametrize("real", [False, True])
def test_activations_are_those_of_a_real_run(real: bool) -> None:
    net, shape = convolutional(), (2, 3, 32, 32)
    ch.build(net, ch.spec(*shape))
    given = {"example": torch.randn(shape)} if real else {"spec": ch.spec(*shape)}
    assert ch.summary(net, **given).activations == ch.summary(net, ch.spec(*shape)).activations


def test_nothing_is_built_or_changed() -> None:
    net = nn.Sequential(nn.LazyLinear(8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    before = {key: value.clone() for key, value in list(net.state_dict().items())[2:]}
    hooks = [
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules()
    ]
    drawn = torch.get_rng_state()
    report = ch.summary(net, ch.spec(4, 6), measure=True)
    assert report["0"].parameters == 56
    assert isinstance(net[0], nn.LazyLinear)
    assert nn.parameter.is_lazy(net[0].weight)
    assert torch.equal(torch.get_rng_state(), drawn)
    after = dict(list(net.state_dict().items())[2:])
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert hooks == [
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules()
    ]
    assert ch.summary(net, ch.spec(4, 6))["0"].tensors[0].waits


def test_ties_and_frozen_parameters(language: nn.Module) -> None:
    report = ch.summary(language, TOKENS)
    assert report.parameters == sum(p.numel() for p in language.parameters())
    assert report.root.shared == report["head"].shared == 640
    assert report["head"].parameters == 0
    assert report["head"].tensors[0].tied_to == "tokens.weight"
    assert report.root.frozen == report["norm"].frozen == 32
    assert report["blocks.3"].frozen == 0


def test_a_module_at_two_paths_is_told_at_the_second() -> None:
    layer = nn.Linear(6, 6)
    report = ch.summary(ch.Sequential(layer, nn.ReLU(), layer), ch.spec(2, 6))
    assert (report["0"].calls, report["0"].multiply_adds) == (2, 2 * 2 * 36)
    assert report["2"].tied_to == "0"
    assert (report["2"].parameters, report["2"].shared) == (0, 42)
    assert report.multiply_adds == 2 * 2 * 36
    assert "is 0" in str(report)


def test_free_axes_keep_their_names() -> None:
    report = ch.summary(nn.Linear(20, 3), ch.spec("batch", 20))
    assert report.root.output == ch.spec("batch", 3)
    assert report.multiply_adds == report.sizes["batch"] * 60
    assert f"figures are for batch = {report.sizes['batch']}" in str(report)


def test_a_large_network_needs_no_memory() -> None:
    report = ch.summary(
        lambda: nn.Sequential(*(nn.Linear(32768, 32768) for _ in range(8))), ch.spec(1, 32768)
    )
    assert report.parameters == 8 * (32768**2 + 32768)
    assert "0–7 8x Linear" in str(report)  # noqa: RUF001


def test_times_are_shares_of_the_whole() -> None:
    net = nn.Sequential(nn.Linear(64, 64), nn.Sequential(nn.Linear(64, 64), nn.ReLU()))
    report = ch.summary(net, ch.spec(32, 64), measure=True)
    assert report.measured
    assert report.root.seconds > 0
    for node in report:
        assert node.seconds >= sum(child.seconds for child in node.children)
    assert " 100%" in str(report).splitlines()[2]
    assert ch.summary(net, ch.spec(32, 64)).root.seconds is None


def test_findings_stand_at_their_path() -> None:
    class Lost(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(4, 4)]

        def forward(self, x):
            return self.layers[0](x)

    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Lost())
    report = ch.summary(net, ch.spec(2, 4))
    assert [found.rule for found in report["2"].findings if found.severity == "error"] == [
        "unregistered-module"
    ]
    assert set(report.findings) == set(ch.check(net, ch.spec(2, 4)))
    lines = str(report).splitlines()
    at = next(i for i, line in enumerate(lines) if "2 Lost" in line)
    assert "✗ error [unregistered-module]" in lines[at + 1]


def test_findings_of_a_factory_are_those_of_check() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.bias = nn.Linear(4, 4), nn.Linear(4, 4)
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x):
            return self.norm(self.bias(x.squeeze()))

    report = ch.summary(Shared, ch.spec("batch", 4))
    assert set(report.findings) == set(ch.check(Shared, ch.spec("batch", 4)))
    assert {"bias-before-norm", "never-called"} <= {found.rule for found in report.findings}


def test_a_network_that_does_not_fit_says_where() -> None:
    net = nn.Sequential(nn.Linear(20, 4), nn.ReLU(), nn.Linear(5, 3))
    with pytest.raises(RuntimeError) as raised:
        ch.summary(net, ch.spec(2, 20))
    assert "in the module at 2" in raised.value.__notes__[0]
    with pytest.raises(TypeError, match=r"summary: give spec=ch.spec"):
        ch.summary(net)
    with pytest.raises(TypeError, match="a bare shape"):
        ch.summary(net, (2, 20))
    with pytest.raises(ValueError, match="measure=True runs the network"):
        ch.summary(nn.Linear(2, 2, device="meta"), ch.spec(1, 2), measure=True)


def test_single_neurons() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Conv2d(1, 2, 2), nn.LazyLinear(2))
    report = ch.summary(nn.Sequential(net[0]), ch.spec(1, 3))
    first, second = report.units("0")
    weight, bias = net[0].weight.detach(), net[0].bias.detach()
    assert torch.equal(second.weights, weight[1])
    assert (second.index, second.bias) == (1, float(bias[1]))
    assert second.norm == pytest.approx(float(weight[1].norm()))
    assert first.mean == pytest.approx(float(weight[0].mean()))
    assert first.std == pytest.approx(float(weight[0].std(correction=0)))
    with pytest.raises(ValueError, match="the root is a Sequential"):
        report.units("")
    lazy = ch.summary(nn.Sequential(net[2]), ch.spec(1, 3))
    with pytest.raises(ValueError, match="that have values"):
        lazy.units("0")


def test_plain_data_and_markdown(language: nn.Module) -> None:
    report = ch.summary(language, TOKENS)
    data = json.loads(json.dumps(report.to_dict()))
    assert data["parameters"] == report.parameters
    blocks = data["root"]["children"][1]["children"]
    assert [block["path"] for block in blocks] == [f"blocks.{i}" for i in range(6)]
    assert blocks[0]["inputs"] == [{"shape": [2, 9, 16], "dtype": "float32"}]
    assert data["root"]["children"][3]["tensors"][0]["tied_to"] == "tokens.weight"
    text = report.to_markdown()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert "6x Block" in text
    assert "weight is tokens.weight" in text


def test_the_counter_is_torch_s_with_modules_told_apart_here() -> None:
    """Tells when torch changes what ``Watch`` takes the place of."""
    assert hasattr(FlopCounterMode(display=False), "mod_tracker")
    watch = Watch(nn.Linear(3, 4))
    with watch:
        watch.net(torch.randn(2, 3))
    assert watch.flops == {"": 2 * 2 * 3 * 4}
