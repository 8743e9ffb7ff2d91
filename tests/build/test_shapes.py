import pytest
import torch
from torch import nn

import chimera as ch
from chimera.build.datafree import is_uninitialized

TABLE = """\
path  module          input        output       parameters
      Sequential      [batch, 20]  [batch, 16]
0       LazyLike      [batch, 20]  [batch, 16]
0.a       2x Linear   [batch, 20]  [batch, 20]         420
0.b       Linear      [batch, 20]  [batch, 16]         336
0.c       Linear                   not called          336
1       Identity      [batch, 16]  [batch, 16]
total                                                1,092"""


class LazyLike(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.LazyLinear(20), nn.LazyLinear(16), nn.Linear(20, 16)

    def forward(self, x):
        return self.b(self.a(self.a(x)))


def test_the_table():
    net = nn.Sequential(LazyLike(), nn.Identity())
    found = ch.shapes(net, ch.spec("batch", 20))
    table = "\n".join(line.rstrip() for line in str(found).splitlines())
    assert [line.split() for line in table.splitlines()] == [
        line.split() for line in TABLE.splitlines()
    ]
    assert max(map(len, table.splitlines())) <= 80
    assert is_uninitialized(net[0].a.weight)
    assert type(net[0].a) is nn.LazyLinear


def test_rows_tell_everything_by_path():
    found = ch.shapes(nn.Sequential(LazyLike()), ch.spec("batch", 20))
    row = found["0.a"]
    assert (row.path, row.kind, row.calls, row.parameters) == ("0.a", "Linear", 2, 420)
    assert row.inputs == row.output == ch.spec("batch", 20)
    assert found["0.c"].inputs is None
    assert found["0.c"].calls == 0
    assert found.inputs == ch.spec("batch", 20)
    assert found.output == ch.spec("batch", 16)
    with pytest.raises(KeyError, match="there is no module"):
        found["1"]


def test_tied_parameters_count_once():
    net = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 100))
    net[1].weight = net[0].weight
    assert ch.shapes(net, ch.spec(2, 100)).parameters == 100 * 100 + 200


def test_several_inputs_and_outputs():
    class Two(nn.Module):
        def forward(self, x, *, mask, parts):
            return {"kept": x * mask, "parts": parts, "count": 3}

    found = ch.shapes(
        Two(),
        ch.inputs(ch.spec("n", 4), mask=ch.spec("n", 1, dtype=torch.bool), parts=[ch.spec("m")]),
    )
    assert found.output == {"kept": ch.spec("n", 4), "parts": [ch.spec("m")], "count": 3}
    assert found.inputs.kwargs["mask"] == ch.spec("n", 1, dtype=torch.bool)
    assert "[n, 4], mask=bool [n, 1], parts=[[m]]" in str(found)
    assert "{'kept': [n, 4], 'parts': [[m]], 'count': 3}" in str(found)


def test_a_width_is_never_taken_for_a_free_axis():
    """The first size tried for a free axis is 37; a layer of that width must not be renamed."""
    found = ch.shapes(nn.Sequential(nn.Linear(5, 37), nn.Linear(37, 41)), ch.spec("batch", 5))
    assert found["0"].output == ch.spec("batch", 37)
    assert found["1"].output == ch.spec("batch", 41)


@pytest.mark.parametrize("side", [64, 100])
def test_free_axes_that_a_network_halves(side):
    """A network that adds what it halved and doubled runs on multiples of 64 alone."""

    class Hourglass(nn.Module):
        def __init__(self):
            super().__init__()
            self.down = nn.Conv2d(1, 4, 2, stride=2)
            self.up = nn.ConvTranspose2d(4, 1, 2, stride=2)

        def forward(self, x):
            return x + self.up(self.down(x))

    found = ch.shapes(Hourglass(), ch.spec("batch", 1, "height", "width"))
    assert found.output == ch.spec("batch", 1, "height", "width")


def test_free_axes_that_a_network_bounds():
    class Bounded(nn.Module):
        def __init__(self):
            super().__init__()
            self.position = nn.Parameter(torch.zeros(16, 8))

        def forward(self, x):
            return x + self.position[: x.shape[1]]

    assert ch.shapes(Bounded(), ch.spec("batch", "time", 8)).output == ch.spec("batch", "time", 8)


class Block(nn.Module):
    def __init__(self, width, rate):
        super().__init__()
        self.rate = rate
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, width // 128, batch_first=True)
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        if self.training and torch.rand(()).item() < self.rate:
            return x
        return x + self.layers(x)


class Language(nn.Module):
    """Over ten billion parameters, with a stochastic-depth schedule read by ``.item()``."""

    def __init__(self):
        super().__init__()
        rates = [rate.item() for rate in torch.linspace(0, 0.1, 48)]
        self.embedding = nn.Embedding(100_000, 4096)
        self.blocks = nn.ModuleList(Block(4096, rate) for rate in rates)
        self.legacy = nn.Parameter(torch.Tensor(4096, 4096))
        nn.init.xavier_normal_(self.legacy)
        self.out = nn.LazyLinear(100_000)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.out(x @ self.legacy)


def test_ten_billion_parameters_take_no_memory():
    found = ch.shapes(Language, ch.spec("batch", "time", dtype=torch.int64))
    per_block = 12 * 4096**2 + 11 * 4096
    ends = 2 * 100_000 * 4096 + 100_000 + 4096**2
    assert found.parameters == 48 * per_block + ends
    assert found.output == ch.spec("batch", "time", 100_000)
    assert found["blocks.47.layers.0"].output == ch.spec("batch", "time", 16384)


def test_a_misfit_is_pointed_at():
    net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(4, 3))
    with pytest.raises(RuntimeError) as caught:
        ch.shapes(net, ch.spec(2, 4))
    assert "in the module at 2: Linear" in caught.value.__notes__[0]
    assert "from 1, Tanh()" in caught.value.__notes__[0]


def test_a_factory_that_needs_data_says_so():
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.size = int(torch.rand(10_000).sum())

    with pytest.raises(RuntimeError, match="needs the data of a tensor") as caught:
        ch.shapes(Picky, ch.spec(2))
    (note,) = caught.value.__notes__
    line = Picky.__init__.__code__.co_firstlineno + 2
    assert note == f"in Picky, constructed without data\n  line: {__file__}:{line}"


def test_the_network_is_left_alone():
    net = nn.Sequential(nn.BatchNorm1d(20), LazyLike())
    before = {name: value.clone() for name, value in net[0].state_dict().items()}
    ch.shapes(net, ch.spec(3, 20))
    assert all(torch.equal(before[name], value) for name, value in net[0].state_dict().items())
    assert len(net[0]._forward_hooks) == 0


class Nonzero(nn.Module):
    def forward(self, x):
        return x[x > 0]


def test_an_example_gives_what_shapes_cannot():
    with pytest.raises(RuntimeError, match=r"test_shapes.py:\d+ needs the data"):
        ch.shapes(Nonzero(), ch.spec(4))
    for net in (Nonzero, Nonzero()):
        found = ch.shapes(net, example=torch.tensor([1.0, -1.0, 2.0]))
        assert found.output == ch.spec(2)
    with pytest.raises(TypeError, match=r"give spec=ch.spec\(...\), or example="):
        ch.shapes(Nonzero())


def test_torchs_own_line_is_named_where_there_is_no_other():
    head = nn.AdaptiveLogSoftmaxWithLoss(16, 100, [10, 50])
    inputs = ch.inputs(ch.spec(4, 16), ch.spec(4, dtype=torch.int64))
    with pytest.raises(RuntimeError, match=r"adaptive.py:\d+ needs the data"):
        ch.shapes(head, inputs)


def test_lengths_without_data_need_an_example():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(5, 6, batch_first=True)

        def forward(self, x, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
            return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0]

    with pytest.raises(RuntimeError, match="needs the data"):
        ch.shapes(Packed, ch.inputs(ch.spec(2, 7, 5), ch.spec(2, dtype=torch.int64)))
    found = ch.shapes(Packed, example=ch.inputs(torch.rand(2, 7, 5), torch.tensor([7, 3])))
    assert found.output == ch.spec(2, 7, 6)
