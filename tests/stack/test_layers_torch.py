"""Every constructor and input with which torch tests its own modules, in a stack."""

import copy
import warnings

import pytest
import torch

import chimera as ch

pytest.importorskip("expecttest")  # torch's module tests import it
from torch.testing._internal.common_modules import module_db

pytestmark = pytest.mark.long
MEMBERS = 3
# torch's samples draw their places in float64, and the layer takes those of its input's dtype.
DOUBLE = ("FractionalMaxPool2d", "FractionalMaxPool3d")


def cases_of_torch() -> list[str]:
    """The classes of torch's own module tests that are no lazy ones, which are built first."""
    return sorted(
        {info.module_cls.__name__ for info in module_db if "Lazy" not in info.module_cls.__name__}
    )


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", cases_of_torch())
def test_torchs_own_cases(name, training):
    (info,) = [one for one in module_db if one.module_cls.__name__ == name]
    torch.manual_seed(0)
    dtype = torch.float64 if name in DOUBLE else torch.float32
    samples = list(
        info.module_inputs_func(
            info, device="cpu", dtype=dtype, requires_grad=True, training=training
        )
    )
    ran = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for sample in samples:
            made, called = sample.constructor_input, sample.forward_input
            if called is None:
                continue
            modules = []
            for seed in range(MEMBERS):
                torch.manual_seed(seed)
                module = info.module_cls(*copy.deepcopy(made.args), **copy.deepcopy(made.kwargs))
                modules.append(module.to(dtype).train(training))
            ch.verify(ch.Stack(modules), ch.inputs(*called.args, **called.kwargs), raises=True)
            ran += 1
    assert ran
