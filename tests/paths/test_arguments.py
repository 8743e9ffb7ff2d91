import numpy as np
import pytest
import torch

from chimera.paths.arguments import as_device, as_flag


def test_flags():
    assert as_flag("share", True) is True
    assert as_flag("share", np.bool_(False)) is False
    for wrong in ("no", 1, None, torch.tensor(True)):
        with pytest.raises(TypeError, match="share must be True or False, got"):
            as_flag("share", wrong)


def test_devices():
    assert as_device("device", "cpu") == torch.device("cpu")
    assert as_device("device", torch.device("meta")) == torch.device("meta")
    with pytest.raises(ValueError, match="device 'nowhere' cannot be used here"):
        as_device("device", "nowhere")
    for wrong in (1.5, True, None):
        with pytest.raises(TypeError, match="device must be a device"):
            as_device("device", wrong)
