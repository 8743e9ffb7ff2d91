"""What every test shares: Hypothesis profiles, and the skipping of tests that need a GPU."""

import os
import signal

# What a shell starts in the background ignores Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Several test processes share the cores: a thread more than one each only waits for the others.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch

# The ordinary run is the same each time; `make test-long` looks at examples nobody saw.
hypothesis.settings.register_profile(
    "ordinary", derandomize=True, deadline=None, print_blob=True, max_examples=50
)
hypothesis.settings.register_profile("long", deadline=None, print_blob=True, max_examples=300)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ordinary"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-golden",
        action="store_true",
        help="write what was printed and drawn into the golden files instead of comparing",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
