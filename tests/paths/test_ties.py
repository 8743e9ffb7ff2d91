from torch import nn

from chimera.paths.ties import tied_modules, tied_tensors


def test_a_tied_parameter_is_named_at_all_its_paths():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    assert tied_tensors(net) == []
    net[2].weight = net[0].weight
    assert tied_tensors(net) == [("0.weight", "2.weight")]
    assert tied_modules(net) == []


def test_equal_values_are_no_tie():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    assert tied_tensors(net) == []


def test_a_shared_module_ties_what_is_in_it():
    block = nn.Sequential(nn.BatchNorm1d(3, affine=False, track_running_stats=True))
    net = nn.Sequential(block, nn.Tanh(), block)
    assert tied_modules(net) == [("0", "2"), ("0.0", "2.0")]
    assert tied_tensors(net) == [
        ("0.0.running_mean", "2.0.running_mean"),
        ("0.0.running_var", "2.0.running_var"),
        ("0.0.num_batches_tracked", "2.0.num_batches_tracked"),
    ]
