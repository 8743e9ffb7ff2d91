"""What joining takes from the environment, and the one name of torch's that is not public."""

import pytest
import torch.distributed as dist

from chimera.scale.joined import default_store, is_rank, join, own_rank, prefixed, seconds_to_wait


@pytest.fixture
def group(tmp_path):
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=prefixed("ours", store), rank=0, world_size=1)
    yield store
    dist.destroy_process_group()


def test_the_default_store_is_that_of_the_group(group):
    default_store().set("asked", "answered")
    assert default_store().get("asked") == b"answered"


def test_a_prefix_keeps_what_others_left_apart(group):
    prefixed("start/0", group).set("step", "7")
    assert not prefixed("start/1", group).check(["step"])
    assert prefixed("start/0", group).get("step") == b"7"


def test_a_process_of_no_launcher_is_no_rank(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert not is_rank()
    assert own_rank() == 0
    assert join() is False


@pytest.mark.parametrize("text", ["soon", "0", "-3", "nan", "inf"])
def test_a_wrong_timeout_is_named(monkeypatch, text):
    monkeypatch.setenv("CHIMERA_RANKS_TIMEOUT", text)
    with pytest.raises(ValueError, match="CHIMERA_RANKS_TIMEOUT: expected seconds above 0, got"):
        seconds_to_wait()
