"""A machine without a C++ compiler, or without a place for what it makes."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

import chimera as ch

SCRIPT = """
import warnings
import torch, chimera as ch
from torch import nn

stack = ch.Stack(ch.instances(nn.Linear, 3, 4, 2))
twin = ch.Stack(ch.instances(nn.Linear, 3, 4, 2))
x, y = torch.randn(5, 4), torch.randint(0, 2, (5,))
steps = [
    ch.train_step(s, nn.functional.cross_entropy, ch.optim.Adam(s), engine=engine)
    for s, engine in ((stack, "compiled"), (twin, "eager"))
]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(5):
        losses = [step(x, y) for step in steps]
        assert torch.equal(*losses)
told = [str(w.message) for w in caught if issubclass(w.category, ch.ChimeraWarning)]
assert len(told) == 1, told
assert steps[0].settled
print(told[0])
"""


def test_without_a_compiler_the_step_runs_eagerly_and_one_line_says_so(tmp_path: Path) -> None:
    cache, compiler = str(tmp_path / "cache"), str(tmp_path / "nowhere")
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache, "CXX": compiler}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().split("\n")
    assert len(lines) == 1
    assert lines[0].startswith("the step runs eagerly: it could not be compiled (")


def test_without_a_place_for_what_is_compiled_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_module("torch._dynamo")  # torch's own import fails where the folder cannot be made
    Path(tmp_path, "file").write_text("")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    stack = ch.Stack(ch.instances(nn.Linear, 3, 4, 2))
    step = ch.train_step(
        stack, nn.functional.cross_entropy, ch.optim.Adam(stack), engine="compiled"
    )
    x, y = torch.randn(5, 4), torch.randint(0, 2, (5,))
    with pytest.warns(ch.ChimeraWarning, match="TORCHINDUCTOR_CACHE_DIR=.*: Not a directory"):
        assert torch.isfinite(torch.stack([step(x, y) for _ in range(4)])).all()
    assert step.settled


CACHED = """
import warnings
import torch, chimera as ch
from torch import nn

stacks = [ch.Stack(ch.instances(nn.Linear, 3, 4, 2)) for _ in range(2)]
x, y = torch.randn(5, 4), torch.randint(0, 2, (5,))
steps = [
    ch.train_step(s, nn.functional.cross_entropy, ch.optim.Adam(s), engine=engine)
    for s, engine in zip(stacks, ("compiled", "eager"))
]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(5):
        losses = [step(x, y) for step in steps]
        torch.testing.assert_close(*losses)
print(*steps[0].choices.values(), sum(issubclass(w.category, ch.ChimeraWarning) for w in caught))
"""


@pytest.mark.long
def test_a_file_that_a_killed_process_left_half_written_leaves_the_step_right(
    tmp_path: Path,
) -> None:
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    told = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", CACHED],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.strip())
        made = [path for path in tmp_path.rglob("*.so") if path.stat().st_size]
        assert made
        for path in made:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert told[0] == "compiled 0"
    assert told[1] in ("compiled 0", "eager 1")
