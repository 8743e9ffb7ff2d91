import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import chimera as ch


class Own(nn.Module):
    """Runs a function of itself and of what came."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *args, **kwargs):
        return self.function(self, *args, **kwargs)


class Masked(nn.Module):
    def forward(self, x, mask):
        return x * mask


X = torch.rand(2, 4)
IMAGES = torch.rand(2, 3, 9, 9)
SEQUENCES = torch.rand(2, 5, 4)
A, B = nn.Linear(4, 3), nn.Linear(4, 5)

# The network, what it takes; the error's type; the path; who made what did not fit; the mend.
MISFITS = {
    "linear": (
        nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(6, 2)),
        (X,),
        (RuntimeError, "2", "float32 [2, 5] from 1, ReLU(), after 0, Linear(", "in_features=5"),
    ),
    "convolution": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(4, 2, 3)),
        (IMAGES,),
        (RuntimeError, "1", "[2, 8, 7, 7] from 0, Conv2d(3, 8", "in_channels=8, or"),
    ),
    "kernel": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(4), nn.Conv2d(8, 2, 3)),
        (IMAGES,),
        (RuntimeError, "2", "[2, 8, 1, 1] from 1, MaxPool2d(", "give it 3 x 3 or more"),
    ),
    "batch norm": (
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(4)),
        (IMAGES,),
        (RuntimeError, "1", "from 0, Conv2d(", "num_features=8"),
    ),
    "batch of one": (
        nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)),
        (X[:1],),
        (ValueError, "1", "float32 [1, 8] from 0, Linear(", "a larger batch"),
    ),
    "embedding of numbers": (
        nn.Sequential(nn.Linear(4, 8), nn.Embedding(10, 8)),
        (X,),
        (RuntimeError, "1", "from 0, Linear(", ".long()"),
    ),
    "index out of range": (
        nn.Sequential(nn.Flatten(), nn.Embedding(10, 8)),
        (torch.tensor([[1, 12]]),),
        (IndexError, "1", "int64 [1, 2] from 0, Flatten(", "num_embeddings=13 or more"),
    ),
    "index below 0": (
        nn.Embedding(10, 8),
        (torch.tensor([[1, -2]]),),
        (IndexError, "(root)", "from (the input)", "no indices below 0; -2 came"),
    ),
    "product": (
        nn.Sequential(nn.Linear(4, 6), Own(lambda net, x: x @ net.w.weight, w=nn.Linear(6, 5))),
        (X,),
        (RuntimeError, "1", "operation: matmul of float32 [2, 6] from 0, Linear(", ".mT"),
    ),
    "cat": (
        Own(lambda net, x: torch.cat([net.a(x), net.b(x)[:1]], 1), a=A, b=B),
        (X,),
        (RuntimeError, "(root)", "float32 [1, 5] from b, Linear(", "axis 0 is 2 in place 0, 1 in"),
    ),
    "stack": (
        Own(lambda net, x: torch.stack([net.a(x), net.b(x)]), a=A, b=B),
        (X,),
        (RuntimeError, "(root)", "[2, 3] from a, Linear(", "axis 1 is 3 in place 0, 5 in place 1"),
    ),
    "sum": (
        Own(lambda net, x: net.a(x) + net.b(x), a=A, b=B),
        (X,),
        (RuntimeError, "(root)", "[2, 5] from b, Linear(", "axis -1 equal, or 1 in one"),
    ),
    "view": (
        Own(lambda net, x: net.a(x).view(2, 2, 2), a=A),
        (X,),
        (RuntimeError, "(root)", "view of float32 [2, 3] from a, Linear(", "6 numbers came"),
    ),
    "view of another order": (
        Own(lambda net, x: net.a(x).t().view(-1), a=A),
        (X,),
        (RuntimeError, "(root)", "view of float32 [3, 2] from a, Linear(", ".reshape"),
    ),
    "heads": (
        Own(lambda net, x: net.a(x).view(2, 5, 4, 2), a=nn.Linear(4, 10)),
        (SEQUENCES,),
        (RuntimeError, "(root)", "from a, Linear(", "[2, 5, 4, 2] holds 80"),
    ),
    "attention": (
        Own(lambda net, x: net.m(net.a(x), x, x), a=B, m=nn.MultiheadAttention(8, 2)),
        (SEQUENCES,),
        (AssertionError, "m", "[2, 5, 5] from a, Linear(", "embed_dim=5, or a query of 8"),
    ),
    "attention's key": (
        Own(lambda net, x: net.m(x, net.b(x), net.b(x)), b=B, m=nn.MultiheadAttention(4, 2)),
        (SEQUENCES,),
        (RuntimeError, "m", "[2, 5, 5] from b, Linear(", "kdim=5, or a key of 4 features"),
    ),
    "attention's batch": (
        Own(lambda net, x: net.m(x, x[:, :3], x[:, :3]), m=nn.MultiheadAttention(4, 2)),
        (SEQUENCES,),
        (RuntimeError, "m", "[2, 3, 4] from (the input)", "batch_first=True"),
    ),
    "recurrent": (
        nn.Sequential(nn.Linear(4, 6), nn.LSTM(8, 3)),
        (SEQUENCES,),
        (RuntimeError, "1", "[2, 5, 6] from 0, Linear(", "input_size=6"),
    ),
    "recurrent in a chain": (
        nn.Sequential(nn.LSTM(4, 3), nn.Linear(3, 2)),
        (SEQUENCES,),
        (TypeError, "1", "(float32 [2, 5, 3] from 0, LSTM(4, 3),", "a tuple of 2 came"),
    ),
    "second input": (
        Own(lambda net, x: net.two(x, net.b(x)), b=B, two=nn.Bilinear(4, 4, 2)),
        (X,),
        (RuntimeError, "two", "[2, 5] from b, Linear(", "in2_features=5, or input 2 of 4"),
    ),
    "float and double": (
        nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3).double()),
        (X,),
        (
            RuntimeError,
            "1",
            "float32 [2, 6] from 0, Linear(",
            "or cast the network",
        ),
    ),
    "whole numbers": (
        nn.Sequential(nn.Flatten(), nn.Linear(4, 6)),
        (torch.ones(2, 4, dtype=torch.int64),),
        (
            RuntimeError,
            "1",
            "int64 [2, 4] from 0, Flatten(",
            "give inputs of float32",
        ),
    ),
    "missing argument": (
        nn.Sequential(nn.Linear(4, 6), Masked()),
        (X,),
        (TypeError, "1", "from 0, Linear(", "give it 'mask' too; 1 came"),
    ),
    "a tuple for two": (
        nn.Sequential(Own(lambda net, x: (net.a(x), x), a=A), Masked()),
        (X,),
        (TypeError, "1", "float32 [2, 3] from 0.a, Linear(", "splat=True"),
    ),
    "too many inputs": (
        Own(lambda net, x: net.a(x, net.b(x)), a=A, b=B),
        (X,),
        (TypeError, "a", "[2, 5] from b, Linear(", "give it 1 by position; 2 came"),
    ),
    "unknown keyword": (
        Own(lambda net, x: net.a(net.b(x), size=3), a=A, b=B),
        (X,),
        (TypeError, "a", "[2, 5] from b, Linear(", "call it without 'size'"),
    ),
    "nothing": (
        nn.Sequential(Own(lambda net, x: None), nn.Linear(4, 2)),
        (X,),
        (TypeError, "1", "came: None", "return what it made"),
    ),
    "a list of modules": (
        Own(lambda net, x: net.layers(net.a(x)), a=A, layers=nn.ModuleList([nn.ReLU()])),
        (X,),
        (NotImplementedError, "layers", "from a, Linear(", "one by one"),
    ),
    "normalized shape": (
        nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(5)),
        (X,),
        (RuntimeError, "1", "[2, 6] from 0, Linear(", "normalized_shape=[6]"),
    ),
    "branches": (
        ch.Sequential(ch.Parallel(A, B), nn.Linear(7, 2)),
        (X,),
        (RuntimeError, "1", "[2, 8] from 0, Parallel(combine='concat'", "in_features=8"),
    ),
    "several at once": (
        Own(lambda net, x: net.c(torch.cat([net.a(x), F.relu(net.b(x))], 1)), a=A, b=B, c=A),
        (X,),
        (RuntimeError, "a", "out_features=3, bias=True) and b, Linear(in", "in_features=8"),
    ),
    "after a condition on data": (
        nn.Sequential(Own(lambda net, x: net.a(x) if x.sum() > 0 else net.b(x), a=A, b=B), B),
        (X,),
        (RuntimeError, "0.b", "[2, 3] from 0.a, Linear(", "in_features=3"),
    ),
}


def noted(net, *args, call=None, **kwargs):
    """The error of a call inside ``pointing``, and its one note."""
    run = net if call is None else call
    with pytest.raises(Exception) as caught, ch.pointing(net):
        run(*args, **kwargs)
    (note,) = caught.value.__notes__
    return caught.value, note


@pytest.mark.parametrize("name", MISFITS)
def test_a_misfit_names_path_producer_and_mend(name):
    net, args, (kind, path, producer, mend) = MISFITS[name]
    error, note = noted(net, *args)
    assert type(error) is kind
    first, *rest = note.splitlines()
    assert first.startswith(f"in the module at {path}: ")
    said = dict(line.strip().split(": ", 1) for line in rest if ": " in line[:12])
    assert producer in note
    assert mend in said["mend"]
    assert __file__ in said["line"]


def test_type_and_traceback_stay():
    net = nn.Sequential(nn.Linear(4, 5), nn.Linear(6, 2))
    with pytest.raises(RuntimeError) as bare:
        net(X)
    error, _ = noted(net, X)
    assert type(error) is type(bare.value)
    assert str(error) == str(bare.value)
    assert error.__cause__ is None
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert names[-1] == traceback.extract_tb(bare.value.__traceback__)[-1].name
    assert "try_shapes" not in names


def test_the_network_runs_as_it_is_when_nothing_fails():
    net = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5))
    hooks = [dict(module._forward_hooks) for module in net.modules()]
    with ch.pointing(net) as inside:
        assert inside is net
        assert [dict(module._forward_hooks) for module in net.modules()] == hooks
        torch.manual_seed(0)
        one = net(X)
    torch.manual_seed(0)
    assert torch.equal(one, net(X))


def test_layers_called_by_hand_in_a_loop():
    net = nn.ModuleDict({"first": nn.Linear(4, 5), "second": nn.Linear(6, 2)})

    def loop(x):
        for _ in range(3):
            x = net["second"](torch.relu(net["first"](x)))

    _, note = noted(net, X, call=loop)
    assert note.startswith("in the module at second: Linear(")
    assert "came: float32 [2, 5] from (the input)" in note


def test_layers_in_lists_and_forwards_called_directly():
    layers = nn.ModuleList([nn.Linear(4, 5), nn.ReLU(), nn.Linear(6, 2)])

    def forward(net, x):
        for layer in net.layers:
            x = layer(x)
        return x

    _, note = noted(nn.Sequential(Own(forward, layers=layers)), X)
    assert note.startswith("in the module at 0.layers.2: ")
    assert "from 0.layers.1, ReLU(), after 0.layers.0, Linear(" in note
    net = nn.Sequential(Own(lambda net, x: net.a.forward(x), a=nn.Linear(6, 2)))
    _, note = noted(net, X)
    assert note.startswith("in the module at 0.a: Linear(")


def test_errors_of_users_keep_their_type():
    class Odd(KeyError):
        pass

    def forward(net, x):
        raise Odd("key")

    error, note = noted(nn.Sequential(Own(forward)), X)
    assert type(error) is Odd
    assert note.startswith("in the module at 0: Own()")


def test_what_is_raised_elsewhere_stays_as_it_is():
    net = nn.Linear(4, 4)

    def untouched(run):
        with pytest.raises(Exception) as caught, ch.pointing(net):
            run()
        assert not hasattr(caught.value, "__notes__")

    untouched(lambda: net(X).sum().backward() or 1 / 0)
    untouched(lambda: nn.Linear(3, 3)(X))
    untouched(lambda: net.load_state_dict({"weight": torch.ones(1)}))
    untouched(lambda: net.nowhere)
    untouched(lambda: [][0])


def test_errors_of_the_backward_pass_stay_as_they_are():
    class Refuses(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("no gradient")

    class Trains(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return Refuses.apply(self.layer(x))

        def step(self, x):
            self(x).sum().backward()

    net = Trains()
    with pytest.raises(RuntimeError, match="no gradient") as caught, ch.pointing(net):
        net.step(X)
    assert not hasattr(caught.value, "__notes__")


def test_a_forward_that_runs_again_in_the_backward_pass_is_pointed():
    class Second(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 1:
                raise ValueError("again")
            return x * 2

    inner = Second()
    net = Own(lambda net, x: checkpoint(net.inner, net.a(x), use_reentrant=True), a=A, inner=inner)
    _, note = noted(net, X, call=lambda x: net(x).sum().backward())
    assert note.startswith("in the module at inner: Second()")


def test_nested_contexts_leave_one_note_from_the_outermost_root():
    encoder = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(6, 2))
    net = nn.ModuleDict({"encoder": encoder})

    def run(x):
        with ch.pointing(encoder), ch.pointing(encoder):
            encoder(x)

    _, note = noted(net, X, call=run)
    assert note.startswith("in the module at encoder.2: Linear(")
    assert "from encoder.1, ReLU(), after encoder.0, Linear(" in note


def test_a_context_is_entered_again_and_decorates():
    net = nn.Linear(4, 2)
    pointing = ch.pointing(net)
    for _ in range(2):
        with pytest.raises(RuntimeError) as caught, pointing, pointing:
            net(torch.ones(2, 3))
        assert len(caught.value.__notes__) == 1

    @pointing
    def step(x):
        return net(x)

    assert step(X).shape == (2, 2)
    with pytest.raises(RuntimeError) as caught:
        step(torch.ones(2, 3))
    assert caught.value.__notes__[0].startswith("in the module at (root): Linear(")


def test_an_error_that_another_takes_the_place_of_is_no_error_of_the_network():
    net = nn.Linear(4, 2)

    def run():
        try:
            net(torch.ones(2, 3))
        except RuntimeError as error:
            raise ValueError("wrapped") from error

    with pytest.raises(ValueError, match="wrapped") as caught, ch.pointing(net):
        run()
    assert not hasattr(caught.value, "__notes__")


def test_threads_point_at_their_own():
    nets = [nn.Sequential(nn.Linear(4, 5), nn.Linear(6 + i, 2)) for i in range(8)]
    ready = threading.Barrier(4)

    def run(net):
        ready.wait()
        with ch.pointing(net):
            net(X)

    with ThreadPoolExecutor(4) as pool:
        errors = [future.exception() for future in [pool.submit(run, net) for net in nets]]
    for i, error in enumerate(errors):
        (note,) = error.__notes__
        assert f"Linear(in_features={6 + i}" in note
        assert "from 0, Linear(in_features=4, out_features=5" in note


def test_an_error_of_another_thread_is_pointed_where_it_is_raised_again():
    net = nn.Sequential(nn.Linear(4, 5), nn.Linear(6, 2))
    with ThreadPoolExecutor(1) as pool:
        _, note = noted(net, X, call=lambda x: pool.submit(net, x).result())
    assert note.startswith("in the module at 1: Linear(")


def test_a_stack_names_the_member_and_where_it_is():
    def forward(net, x):
        if net.a.weight.sum() < 0:
            raise ValueError("below zero")
        return net.a(x)

    members = [Own(forward, a=nn.Linear(4, 4)) for _ in range(3)]
    for member, value in zip(members, (1.0, -1.0, 1.0), strict=True):
        nn.init.constant_(member.a.weight, value)
    net = nn.Sequential(nn.Linear(4, 4), ch.Stack(members))
    _, note = noted(net, X)
    assert note.startswith("in the module at (root) of member 1 of the stack at 1: Own(...)")
    _, note = noted(net[1], X)
    assert note.startswith("in the module at (root) of member 1 of the stack: Own(...)")


def _misfits():
    return [nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(6, 2)) for _ in range(2)]


def _step(net):
    stack = ch.Stack(_misfits())
    ch.train_step(stack, F.mse_loss, ch.optim.SGD(stack, lr=0.1))(X, torch.rand(2, 2))


@pytest.mark.parametrize(
    ("run", "place"),
    [
        (lambda net: ch.build(net, ch.spec(2, 4)), "2"),
        (lambda net: ch.build(net, example=X), "2"),
        (lambda net: ch.shapes(net, ch.spec("batch", 4)), "2"),
        (lambda net: ch.summary(net, ch.spec(2, 4)), "2"),
        (lambda net: ch.Stack(_misfits())(X), "2 of member 0 of the stack"),
        (_step, "2 of member 0 of the stack"),
        (
            lambda net: ch.fit(_misfits(), ch.data(X.repeat(9, 1), X.repeat(9, 1)), batch_size=2),
            "2 of member 0 of the stack",
        ),
    ],
)
def test_what_points_by_itself_points_once(run, place):
    net = _misfits()[0]
    _, note = noted(net, net, call=run)
    assert note.startswith(f"in the module at {place}: Linear(in_features=6")
    assert ", 5] from 1, ReLU(), after 0, Linear(" in note
    assert "mend: give this layer in_features=5" in note


def test_under_vmap_and_without_gradients():
    net = nn.Sequential(nn.Linear(4, 5), nn.Linear(6, 2))
    _, note = noted(net, torch.rand(3, 2, 4), call=torch.func.vmap(net))
    assert "in the module at 1: Linear" in note
    assert "came: float32 [2, 5] from 0, Linear(" in note
    with torch.no_grad(), torch.inference_mode():
        _, note = noted(net, X)
    assert "from 0, Linear(" in note


def test_a_compiled_network_is_pointed_by_its_second_run():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(6, 2))
    compiled = torch.compile(net, backend="eager")
    for root, path in ((net, "2"), (nn.ModuleDict({"net": net}), "net.2")):
        with pytest.raises(RuntimeError) as caught, ch.pointing(root):
            compiled(X)
        note = caught.value.__notes__[-1]
        assert note.startswith(f"in the module at {path}: Linear(in_features=6")
        assert "came: float32 [2, 5] from" in note
        assert f"line: {__file__}" in note


def test_what_is_lazy_is_pointed_in_its_first_call():
    net = nn.Sequential(nn.LazyLinear(5), nn.Linear(6, 2))
    _, note = noted(net, X)
    assert "came: float32 [2, 5] from 0, Linear(in_features=4" in note


def test_the_second_run_changes_nothing():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.seen = []

        def forward(self, x):
            self.calls += 1
            self.seen.append(x.shape)
            return x

    net = nn.Sequential(Counts(), nn.BatchNorm1d(4), nn.Linear(6, 2))
    state = torch.random.get_rng_state()
    x = X.clone()
    noted(net, x)
    assert net[0].calls == 1
    assert len(net[0].seen) == 1
    assert net[1].num_batches_tracked == 1
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(x, X)


def test_what_goes_wrong_while_pointing_hides_nothing(monkeypatch):
    class Rude(nn.Module):
        def extra_repr(self):
            raise KeyError("repr")

        def __deepcopy__(self, memo):
            raise SystemError("no copies")

        def forward(self, x):
            raise ValueError("mine")

    error, note = noted(nn.Sequential(Rude()), X)
    assert str(error) == "mine"
    assert note.startswith("in the module at 0: Rude(...)")


def test_processes_that_wait_for_each_other_do_not_run_again(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    calls = []

    def forward(net, x):
        calls.append(1)
        return net.a(x)

    _, note = noted(Own(forward, a=nn.Linear(6, 2)), X)
    assert calls == [1]
    assert "came: float32 [2, 4]\n" in note


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (nn.Linear, "got the class Linear; give an instance"),
        (3, "got 3 of type int"),
        (None, "None"),
    ],
)
def test_what_is_no_module_is_refused(value, words):
    with pytest.raises(TypeError, match=f"pointing: net must be a module; .*{words}"):
        ch.pointing(value)


def test_an_interrupt_is_left_alone():
    def forward(net, x):
        raise KeyboardInterrupt

    net = Own(forward)
    with pytest.raises(KeyboardInterrupt) as caught, ch.pointing(net):
        net(X)
    assert not hasattr(caught.value, "__notes__")
