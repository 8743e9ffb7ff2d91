"""The page of speeds shows what was kept, peers' wins among it."""

import json
from pathlib import Path

from speed_page import PAGE, RESULTS, page

ROW = {
    "row": "64 MLPs",
    "ms": {"loop": 9.0, "vmap": 3.0, "JAX": 2.5, "JAX shifted": 2.0, "ours eager": 2.5},
    "failed": {"ModelBatch": "fails: RuntimeError: no"},
    "floor_ms": 0.5,
}


def test_the_page_is_what_the_results_say() -> None:
    assert PAGE.read_text() == page(RESULTS), "run python benchmarks/speed_page.py"


def test_a_peer_that_wins_is_named(tmp_path: Path) -> None:
    (tmp_path / "peers-a.json").write_text(json.dumps({"hardware": "a machine", "rows": [ROW]}))
    text = page(tmp_path)
    assert "| 64 MLPs | 9.00 | 3.00 | 2.00 | 2.50 | 0.80 (JAX) | 0.50 | 20% |" in text
    assert "A peer is faster here:\n\n- 64 MLPs: JAX takes 80% of our time." in text
    assert "- ModelBatch cannot do 64 MLPs: RuntimeError: no" in text
    won = ROW | {"ms": {"loop": 9.0, "ours eager": 2.5}, "failed": {}}
    (tmp_path / "peers-a.json").write_text(json.dumps({"hardware": "a machine", "rows": [won]}))
    assert "No peer is faster on these rows." in page(tmp_path)
