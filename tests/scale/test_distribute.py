"""One network over three ranks, against the same network alone; what one process can tell."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import chimera as ch
from chimera.scale.blocks import repeated_blocks
from chimera.scale.branches import outermost
from chimera.scale.distribute import _synchronized
from chimera.scale.memory import activations, need
from chimera.scale.mixing import known, suspects
from chimera.scale.rows import Shares, batch_of

RANKS = 3
SCRIPT = Path(__file__).with_name("ranks_of_distribute.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What every case gave, by rank."""
    folder = tmp_path_factory.mktemp("ranks")
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(SCRIPT), str(rank), str(RANKS), str(folder)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(RANKS)
    ]
    try:
        for process in started:
            _, errors = process.communicate(timeout=200)
            assert process.returncode == 0, errors
    finally:
        for process in started:
            process.kill()
    return [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(RANKS)]


@pytest.mark.parametrize("mode", ["replicate", "shard"])
@pytest.mark.parametrize("net", ["tied", "recurrent", "pictures", "masked"])
def test_outputs_gradients_and_ten_steps_are_the_networks(found: Any, net: str, mode: str) -> None:
    for rank in found:
        case = rank[f"equal-{net}-{mode}"]
        assert isinstance(case, dict), case
        assert case["outputs"] < 1e-12
        assert case["gradients"] < 1e-12
        assert case["state"] < 1e-12
        assert case["keys"]
        assert case["class"]


@pytest.mark.parametrize(
    "name",
    [
        *("own_rows", "accumulated", "input_gradients", "odd_networks", "unused_outputs"),
        "penalty_and_unused",
    ],
)
def test_other_uses_give_the_networks_gradients(found: Any, name: str) -> None:
    for rank in found:
        assert isinstance(rank[name], dict), rank[name]
        assert all(value < 1e-12 for value in rank[name].values()), rank[name]


def test_an_argument_without_rows_is_named(found: Any) -> None:
    for rank in found:
        told = rank["dealt_too"]
        assert isinstance(told, dict), told
        for when in ("dealt", "later"):
            assert "w has as many rows as the batch, 4, and was dealt out with it" in told[when]
            assert "whole=['w']" in told[when]
        assert told["other rows"] == "ran"
        assert told["whole"] == [4, 4]


def test_a_part_of_it_is_plain_or_one_clear_error(found: Any) -> None:
    for rank in found:
        cuts = rank["cuts"]
        assert isinstance(cuts, dict), cuts
        assert cuts["class"]
        assert cuts["outputs"] == 0
        assert "TypeError: a part of a sharded network does not run by itself" in cuts["sharded"]
        assert re.search("TypeError: '0' is sharded over processes", cuts["saved"])


def test_a_penalty_on_weights_counts_once(found: Any) -> None:
    for rank in found:
        assert isinstance(rank["penalty"], dict), rank["penalty"]
        assert all(value < 1e-12 for value in rank["penalty"].values()), rank["penalty"]
        own = rank["penalty_of_own_rows"]
        assert isinstance(own, dict), own
        assert own["whole"] < 1e-12
        assert "ValueError: distribute: a loss of inputs='each'" in own["parts"]
        assert "p.full_tensor()" in own["parts"]


def test_files_and_states_go_from_either_to_the_other(found: Any) -> None:
    for rank in found:
        files = rank["files"]
        assert isinstance(files, dict), files
        for mode in ("replicate", "shard"):
            assert files[f"{mode} saved"] == files[f"{mode} loaded"] == files[f"{mode} state"] == 0
            assert files[f"{mode} ties"]
            assert "Missing key(s)" in files[f"{mode} missing"]
            assert "module." not in files[f"{mode} missing"]


REFUSED = {
    "batch norm": "'1': BatchNorm1d takes statistics of the whole batch.*GroupNorm",
    "batch norm trained later": "'1': BatchNorm1d takes statistics",
    "without running statistics": "'1': BatchNorm1d takes statistics",
    "sync": "sync=True cannot synchronize '1' on cpu.*SyncBatchNorm runs on GPUs alone",
    "while": "'1': While asks its condition of the whole batch.*torch.where",
    "asks": "'inner.1': Python asks about data there .bool.",
    "keeps": "'mean': what it writes into that buffer depends on the batch",
    "pairs": "'.root.': it does not run on a part of a batch .ArithmeticError: one is not enough",
    "counts": "'seen': what it writes into that buffer depends on the number of rows",
    "several": "'.root.': of 7 rows, 3 computed apart are other rows",
    "several, larger than a part": "'.root.': of 7 rows, 3 computed apart are other rows",
    "several, later": "'.root.': of 20 rows, 7 computed apart are other rows",
    "fixed": "'.root.': rows computed apart are other rows",
    "mean": "output is float32 .. for [23] rows: it has no row.*outside it",
    "over": "'out.1': an output row changes when only other input rows do",
    "over, sharded": "'out.1': an output row changes when only other input rows do",
    "time first": "'.root.': an output row changes.*batch_first=True",
    "no tensor": "hold no tensor with rows; got .3.",
    "other batches": "different batches.*inputs='each'",
    "scalar": "'0.scale' is a scalar.*mode='replicate'",
    "plain tensor": "'offset' is a tensor in a plain attribute.*ch.Constant",
    "twice": "distributed already",
    "copied": "cannot be copied or pickled",
    "ranks": "devices is 2, and 3 ranks run.*torchrun --nproc-per-node 2",
    "other devices": r"devices\[1\] is 'meta', and rank 1 computes on 'cpu'; leave devices out",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_spread_is_refused_by_name(found: Any, name: str) -> None:
    for rank in found:
        assert isinstance(rank["refusals"], dict), rank["refusals"]
        assert re.search(REFUSED[name], rank["refusals"][name]), rank["refusals"][name]


def test_batch_norm_in_evaluation_runs(found: Any) -> None:
    assert all(rank["refusals"]["batch norm in evaluation runs"] for rank in found)


def test_the_trial_of_the_first_call_leaves_no_trace(found: Any) -> None:
    for rank in found:
        assert rank["trial_leaves_no_trace"] == {
            "calls": 1,
            "buffer": 1,
            "of rank 0": True,
            "drew": True,
        }


@pytest.mark.parametrize("name", ["loss", "losses"])
def test_a_loss_that_forward_keeps_is_refused(found: Any, name: str) -> None:
    place = {"loss": "one", "losses": r"kept\[0\]"}[name]
    for rank in found:
        error, warned, *_ = rank["attributes"][name]
        assert re.search(f"'{place}' is computed of the rows of this rank alone.*return", error)
        assert not warned


def test_other_attributes_that_forward_keeps_are_told_once(found: Any) -> None:
    for number, rank in enumerate(found):
        for name, place in (("looked at", "one"), ("features", "kept[0]"), ("heads", "one")):
            error, warned, kept, _ = rank["attributes"][name]
            assert error == "nothing was raised"
            assert len(warned) == (number == 0)
            assert all(f"forward keeps {place!r}, on each rank of its own" in w for w in warned)
            assert kept == (2 if name == "features" else 0)
        for name in ("no rows", "count"):
            assert rank["attributes"][name][:2] == ["nothing was raised", []]


def test_the_trial_leaves_lists_tensors_and_files_as_they_were(found: Any) -> None:
    for number, rank in enumerate(found):
        own = 3 if number == 0 else 2
        assert rank["attributes"]["count"][3] == [2.0, 2.0, 2.0]
        assert rank["attributes"]["log"] == [own, own]
        assert rank["attributes"]["cache"] == [0, 1]


def test_auto_goes_by_memory_and_says_why(found: Any) -> None:
    for rank in found:
        chosen = rank["automatic"]
        assert isinstance(chosen, dict), chosen
        assert chosen["room"].startswith("auto: replicate: a replica takes 3.44 kB of parameters")
        assert "1 GB of memory a rank, 3 ranks" in chosen["room"]
        assert chosen["little"].startswith("auto: shard: a replica takes 3.44 kB")
        assert "sharded: blocks.0, blocks.1, blocks.2, then the rest" in chosen["little"]
        assert chosen["activations"].startswith("auto: shard")
        assert "kB of activations" in chosen["activations"]
        assert chosen["no activations"].startswith("auto: replicate")


# One process.


def branching() -> nn.Module:
    shared = nn.Linear(4, 4)
    return nn.Sequential(
        nn.Linear(4, 4),
        ch.Parallel(
            nn.Linear(4, 2),
            nn.Sequential(nn.Linear(4, 50), nn.Linear(50, 2)),
            shared,
            nn.Sequential(shared, nn.Linear(4, 30)),
            nn.Linear(4, 8),
        ),
        nn.Linear(46, 3),
    )


@pytest.mark.parametrize("mode", ["auto", "replicate", "shard", "branches"])
def test_on_one_device_it_is_the_network(mode: str) -> None:
    net = branching()
    assert ch.distribute(net, mode, devices=["cpu"]) is net
    assert ch.distribute(net, mode, devices=1) is net


@pytest.mark.parametrize("mode", ["auto", "replicate", "shard"])
def test_without_a_process_group_the_command_is_told(mode: str) -> None:
    with pytest.raises(ValueError, match="no process group; run torchrun --nproc-per-node 4 "):
        ch.distribute(nn.Linear(2, 2), mode, devices=4)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"mode": "copies"}, ValueError, "mode is one of auto, replicate, shard, branches"),
        ({"inputs": "all"}, ValueError, "inputs is 'same' or 'each'; got 'all'"),
        ({"memory": 0}, ValueError, "memory is a number of bytes above 0; got 0"),
        ({"devices": "cuda"}, TypeError, "devices is a number or a list of devices; got 'cuda'"),
        ({"devices": []}, TypeError, "devices is a number or a list of devices"),
        ({"devices": ["zz"]}, ValueError, r"devices\[0\] 'zz' cannot be used here"),
        (
            {"devices": ["cpu", "cuda:99"]},
            ValueError,
            r"devices\[1\] 'cuda:99' cannot be used here",
        ),
        ({"devices": ["cuda:99"]}, ValueError, r"devices\[0\] 'cuda:99' cannot be used here"),
        ({"devices": [None]}, TypeError, r"devices\[0\] must be a device"),
        (
            {"devices": ["meta"]},
            ValueError,
            r"'weight' is on cpu; .*move it there, net.to\('meta'\)",
        ),
        ({"devices": 0}, ValueError, "devices is 1 or more; got 0"),
        ({"whole": "mask"}, TypeError, r"write \['mask'\]"),
        ({"whole": ["mask"]}, ValueError, r"'mask', which is no argument of Linear.forward\("),
        ({"mode": "branches", "devices": 2}, ValueError, "this Linear has none"),
        ({"sync": "no"}, TypeError, "sync is True or False; got 'no'"),
    ],
)
def test_wrong_arguments_are_named(options: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        ch.distribute(nn.Linear(2, 2), **options)


def test_what_is_no_built_network_is_named() -> None:
    with pytest.raises(TypeError, match="net must be a module; got int"):
        ch.distribute(3)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="net is a Stack, whose members are spread by ch.fit"):
        ch.distribute(ch.Stack([nn.Linear(2, 2), nn.Linear(2, 2)]))
    with pytest.raises(ValueError, match="'weight' is uninitialized; build the network first"):
        ch.distribute(nn.LazyLinear(2))


def test_branches_go_to_devices_by_size_and_ties_hold() -> None:
    net = branching()
    x = torch.randn(5, 4)
    expected = net(x)
    wide = ch.distribute(net, "branches", devices=["cpu", "meta"])
    (block,) = dict(outermost(net)).values()
    places = [str(device) for device in block.devices or ()]
    assert places[0] == "cpu"  # where outputs are joined
    assert places[1] == "meta"  # the largest
    assert places[2] == places[3]  # they share a layer
    for branch, place in zip(block, places, strict=True):
        assert all(str(p.device) == place for p in branch.parameters())
    assert "1.1: on meta" in str(ch.explain(wide))

    net = branching()
    net.load_state_dict(branching().state_dict())
    expected = net(x)
    wide = ch.distribute(net, "branches", devices=["cpu", "cpu"])
    assert torch.equal(wide(x), expected)
    wide(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert list(wide.state_dict()) == list(branching().state_dict())


@pytest.mark.gpu
def test_branches_on_a_gpu_and_a_cpu_give_the_networks_outputs() -> None:
    net = branching()
    x = torch.randn(5, 4)
    expected = net(x)
    expected.sum().backward()
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    wide = ch.distribute(net, "branches", devices=["cuda:0", "cpu"])
    torch.testing.assert_close(wide(x).cpu(), expected, rtol=1e-4, atol=1e-5)
    wide(x).sum().backward()
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad.cpu(), gradient, rtol=1e-4, atol=1e-5)


def test_branches_tied_to_the_rest_stay_on_the_first_device() -> None:
    first = nn.Linear(4, 4)
    net = nn.Sequential(first, ch.Parallel(nn.Linear(4, 1), nn.Sequential(first, nn.Linear(4, 90))))
    ch.distribute(net, "branches", devices=["cpu", "meta"])
    assert {str(p.device) for p in net.parameters()} == {"cpu"}


def test_auto_without_a_group_places_branches_where_they_hold_most() -> None:
    wide = ch.distribute(branching(), devices=["cpu", "cpu"])
    assert "auto: branches: no process group, 2 devices" in str(ch.explain(wide))


def test_repeated_blocks_are_the_outermost_siblings_of_one_make() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.ModuleDict(
        {
            "encoder": nn.TransformerEncoder(layer, 3, enable_nested_tensor=False),
            "small": nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)),
            "once": nn.Linear(8, 8),
        }
    )
    assert list(repeated_blocks(net)) == [f"encoder.layers.{i}" for i in range(3)]


def test_a_block_that_shares_a_tensor_belongs_to_the_root() -> None:
    net = ch.Repeat(lambda: nn.Sequential(nn.Linear(3, 3)), 4)
    net[1][0].weight = net[2][0].weight
    twice = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    twice.append(twice[0])
    assert list(repeated_blocks(net)) == ["0", "3"]
    assert list(repeated_blocks(twice)) == ["1"]


def test_on_gpus_batch_norms_are_synchronized_and_keep_their_keys() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.BatchNorm1d(3)))
    keys = list(net.state_dict())
    assert known(suspects(net)) is not None
    assert _synchronized(net, torch.device("cuda")) is net
    assert isinstance(net[1][0], nn.SyncBatchNorm)
    assert list(net.state_dict()) == keys
    assert known(suspects(net)) is None
    with pytest.raises(ValueError, match="holds batch norms, not one"):
        _synchronized(nn.BatchNorm1d(3), torch.device("cuda"))


def test_memory_counts_every_tensor_once() -> None:
    net = nn.Sequential(nn.Linear(3, 5, bias=False), nn.Tanh(), nn.Linear(5, 2))
    net[2].bias.requires_grad_(False)
    inputs = ch.inputs(ch.spec(7, 3))
    trained, frozen = 15 + 10, 2
    assert need(net, None, 1).held == 4 * (4 * trained + frozen)
    # The input, and the output of tanh, which two operations keep.
    assert activations(net, inputs) == 4 * (7 * 3 + 7 * 5)
    assert need(net, inputs, 2).activations == 4 * (7 * 3 + 7 * 5) // 2
    with pytest.raises(ValueError, match="spec has the free axis 'batch'; give the size"):
        activations(net, ch.inputs(ch.spec("batch", 3)))


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("rows", [0, 1, 2, 7, 10])
def test_parts_of_a_batch_are_the_batch(rows: int, ranks: int) -> None:
    x, mask = torch.arange(rows * 2).view(rows, 2), torch.zeros(rows, rows)
    batch = batch_of((x, 3), {"mask": mask, "each": [x + 1]}, frozenset({"mask"}))
    shares = Shares.even(rows, ranks)
    parts = [batch[shares.part(rank)] for rank in range(ranks)]
    assert sum(part.rows for part in parts) == shares.rows == rows
    assert max(shares.counts) - min(shares.counts) <= 1
    assert torch.equal(torch.cat([part.inputs.args[0] for part in parts]), x)
    assert torch.equal(torch.cat([part.inputs.kwargs["each"][0] for part in parts]), x + 1)
    assert all(part.inputs.args[1] == 3 for part in parts)
    assert all(part.inputs.kwargs["mask"] is mask for part in parts)
