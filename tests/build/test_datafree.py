import pytest
import torch
from torch import nn
from torch.nn import functional as F

from chimera.build.datafree import SMALL, DataFree
from chimera.decide.explore import DataNeeded


@pytest.fixture
def mode():
    with DataFree() as mode:
        yield mode


SCALAR = torch.empty((), device="meta")


def empty(*shape):
    """A tensor without data, however small."""
    return SCALAR.expand(shape).clone()


@pytest.mark.parametrize("device", [None, "cpu", "cuda", "meta"])
def test_small_tensors_are_real_and_large_ones_have_no_data(mode, device):
    assert torch.linspace(0, 1, 5, device=device)[2].item() == 0.5
    assert torch.full((SMALL,), 2.0, device=device).sum().item() == 2 * SMALL
    assert torch.zeros(SMALL + 1, device=device).is_meta
    assert torch.rand(10**6, 10**6, device=device).shape == (10**6, 10**6)
    assert torch.tensor([1, 2], device=device).tolist() == [1, 2]


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.new_zeros(3),
        lambda x: x.new_full((3,), 0),
        lambda x: x.new_tensor([0, 0, 0]),
        lambda x: torch.zeros_like(x[0, :3]),
    ],
)
def test_a_small_tensor_made_like_one_without_data_is_real(mode, make):
    made = make(empty(9, 9).to(torch.int32))
    assert made.tolist() == [0, 0, 0]
    assert made.dtype == torch.int32


def test_a_large_network_takes_no_memory(mode):
    layer = nn.Linear(10**6, 10**6)
    assert layer.weight.is_meta
    assert layer(empty(2, 10**6)).shape == (2, 10**6)
    legacy = nn.Parameter(torch.Tensor(10**5, 10**4))
    nn.init.xavier_uniform_(legacy)
    assert (legacy @ empty(10**4, 3)).shape == (10**5, 3)


def test_where_both_meet_there_is_no_data(mode):
    small, x = torch.ones(4), empty(3, 4)
    for met in (small + x, x + small, torch.cat([x, small[None]]), F.linear(x, torch.ones(2, 4))):
        assert met.is_meta
    assert not mode.hidden(small)
    assert torch.stack([small, small]).sum().item() == 8


def test_what_is_written_into_is_without_data_from_then_on(mode):
    x = empty(3, 4)
    for write in (
        lambda h: h.__setitem__((slice(None), 0), x[:, 0]),
        lambda h: h.add_(x),
        lambda h: h.__iadd__(x),
        lambda h: torch.add(x, x, out=h),
        lambda h: h[1].copy_(x[0]),
        lambda h: setattr(h, "data", x),
    ):
        target = torch.zeros(3, 4)
        untouched = torch.zeros(3, 4)
        write(target)
        assert mode.hidden(target)
        assert target.shape == (3, 4)
        assert not mode.hidden(untouched)
        with pytest.raises(DataNeeded):
            (target + 1).sum().item()


def test_an_operation_in_place_gives_back_its_tensor(mode):
    target = torch.zeros(3, 4)
    same = target
    same += empty(3, 4)
    assert same is target


def test_running_statistics_are_written(mode):
    norm = nn.BatchNorm1d(4)
    norm(empty(3, 4))
    assert mode.hidden(norm.running_mean)
    assert not mode.hidden(norm.weight)
    assert norm.num_batches_tracked.item() == 1


def test_masks_with_data_select(mode):
    x = empty(5, 7)
    keep = torch.tensor([True, False, True, False, True])
    assert x[keep].shape == (3, 7)
    assert x[keep, 1:3].shape == (3, 2)
    assert x[:, torch.arange(7) > 4].shape == (5, 2)
    x[keep] = 0
    assert mode.reads_values
    with pytest.raises(DataNeeded, match="__getitem__"):
        x[x > 0]


def test_moving_to_a_device_moves_nothing(mode):
    x = empty(2, 3)
    assert x.to("cuda").is_meta
    assert x.cuda().cpu() is x
    assert x.to("cuda", torch.float64).dtype == torch.float64
    assert x.to(dtype=torch.float16, device="cuda:1").dtype == torch.float16
    assert x.to(torch.ones(1, dtype=torch.int64)).dtype == torch.int64
    assert torch.ones(2).to("cuda").tolist() == [1, 1]


def test_gradients_with_respect_to_inputs(mode):
    x = empty(3, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(nn.Linear(4, 1)(x).sum(), x, create_graph=True)
    assert gradient.shape == (3, 4)


@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(5000, 40, 2, bidirectional=True),
        nn.TransformerEncoder(
            nn.TransformerEncoderLayer(5000, 4, 8), 1, enable_nested_tensor=False
        ),
        nn.utils.parametrizations.weight_norm(nn.Linear(5000, 3)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(5000, 3)),
        nn.Sequential(nn.Unflatten(1, (50, 100)), nn.Conv1d(50, 4, 3), nn.GroupNorm(2, 4)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_of_torch_run(layer, mode):
    layer(empty(3, 5000))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.float16], ids=str)
@pytest.mark.parametrize(
    "product",
    [
        lambda x: nn.Linear(8, 3)(x),
        lambda x: x @ nn.Linear(3, 8).weight,
        lambda x: torch.addmm(torch.zeros(3), x, nn.Linear(3, 8).weight),
        lambda x: torch.matmul(x[None], nn.Linear(3, 8).weight),
        lambda x: nn.MultiheadAttention(8, 2)(x, x, x),
    ],
    ids=["linear", "@", "addmm", "matmul", "attention"],
)
def test_products_of_two_dtypes_are_refused_as_with_data(product, dtype, mode):
    with pytest.raises(RuntimeError, match="dtype"):
        product(torch.empty(2, 8, dtype=dtype, device="meta"))
    mode.paused = True
    with pytest.raises(RuntimeError):
        product(torch.ones(2, 8, dtype=dtype))


def test_autocast_lets_products_of_two_dtypes_pass(mode):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nn.Linear(8, 3)(torch.empty(2, 8, dtype=torch.bfloat16, device="meta"))
