"""The version counter, torch's own affair: these tell when it changes."""

import torch

from chimera.paths.version import unchanged, version


def test_writing_in_place_counts():
    x = torch.ones(3)
    before = version(x)
    assert unchanged(x, before)
    x + 1
    assert unchanged(x, before)
    for write in (lambda: x.add_(1), lambda: x.__setitem__(0, 5.0), lambda: x[1:].zero_()):
        before = version(x)
        write()
        assert not unchanged(x, before)


def test_views_and_detached_tensors_share_the_count_data_does_not():
    x = torch.ones(3)
    before = version(x)
    x.detach().add_(1)
    assert not unchanged(x, before)
    before = version(x)
    x.data.add_(1)
    assert unchanged(x, before)


def test_vmap_writes_through_to_the_count():
    x = torch.ones(3, 2)
    before = version(x)
    torch.vmap(lambda row: row.add_(1))(x)
    assert not unchanged(x, before)


def test_batch_norm_leaves_no_trace():
    """Why buffers are copied whatever their version says."""
    norm = torch.nn.BatchNorm1d(2)
    before = version(norm.running_mean)
    norm(torch.randn(4, 2))
    assert unchanged(norm.running_mean, before)
    assert norm.running_mean.any()


def test_tensors_of_inference_do_not_count():
    with torch.inference_mode():
        x = torch.ones(3)
    assert version(x) is None
    assert not unchanged(x, version(x))
