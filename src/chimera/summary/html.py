"""The page of a summary: one HTML file, with its style, its script and its data inside.

Nothing is fetched: a content security policy in the page forbids it.
"""

import html
import json
from importlib.resources import files

from chimera.summary.drawing import drawing
from chimera.summary.figures import Figures
from chimera.summary.values import Values

_SCRIPTS = ("draw", "layout", "graph", "tree", "panel", "main")


def page(report: Figures, values: Values) -> str:
    """The whole page, as text."""
    content = drawing(report, values)
    data = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    scripts = "\n".join(_part(f"{name}.js") for name in _SCRIPTS)
    parts = {
        "TITLE": html.escape(report.root.kind),
        "STYLE": _part("page.css"),
        "DATA": data.replace("<", "\\u003c"),
        "SCRIPT": scripts,
    }
    text = _part("page.html")
    for name, part in parts.items():
        before, mark, after = text.partition(f"<!--{name}-->")
        assert mark, f"page.html has no place for {name}"
        text = before + part + after
    return text


def _part(name: str) -> str:
    return files("chimera.summary").joinpath("page", name).read_text(encoding="utf-8")
