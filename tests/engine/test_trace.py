"""Recordings, and the names of torch without a promise: these tell when they change."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from chimera.engine.program import Uncapturable
from chimera.engine.trace import asked_a_value, recorded


def test_nothing_is_computed_and_what_the_function_holds_becomes_a_constant() -> None:
    held, given = torch.arange(3.0), torch.ones(3)

    def work(x: torch.Tensor) -> list[torch.Tensor]:
        x.add_(held)
        return [x * 2]

    graph = recorded(work, [given])
    assert torch.equal(given, torch.ones(3))
    (found,) = graph(given)
    assert torch.equal(given, held + 1)
    assert torch.equal(found, 2 * (held + 1))


def test_torch_still_has_the_option() -> None:
    assert "_allow_non_fake_inputs" in inspect.signature(make_fx).parameters


@pytest.mark.parametrize("ask", [bool, float, lambda x: x.nonzero().tolist()])
def test_a_question_to_a_tensor_is_told_from_other_errors(ask) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(Exception) as caught:
        recorded(lambda x: [x * float(bool(ask(x.sum())))], [torch.ones(3)])
    assert asked_a_value(caught.value)
    assert not asked_a_value(RuntimeError("GuardOnDataDependentSymNode"))


def test_a_folder_that_cannot_be_made_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(tmp_path, "file").write_text("")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", os.fspath(tmp_path / "file" / "cache"))
    with pytest.raises(Uncapturable, match="cannot be written|Not a directory"):
        recorded(lambda x: [x + 1], [torch.ones(3)])
