"""Every check rule finds its mistake at the right path, and not where it only looks like one.

A fixture defines ``subject`` (what is checked) and may define ``spec``, ``loss``, ``paths`` (where
the rule must find something), ``line``, ``severity``, ``said`` and ``mend`` (parts of one message
and one mend).
"""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import chimera as ch
from chimera.check.finding import SEVERITIES
from chimera.check.rule import all_rules

HERE = Path(__file__).parent / "fixtures"
MUST = sorted(p for p in HERE.glob("*/must_*.py") if not p.name.startswith("must_not_"))
MUST_NOT = sorted(HERE.glob("*/must_not_*.py"))
RULES = sorted(all_rules())


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fixture_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(module: ModuleType, rule: str) -> list[ch.Finding]:
    findings = ch.check(
        module.subject, getattr(module, "spec", None), loss=getattr(module, "loss", None)
    )
    return [finding for finding in findings if finding.rule == rule]


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", MUST, ids=named)
def test_a_mistake_is_found_at_its_path(path: Path) -> None:
    fixture = imported(path)
    findings = found(fixture, path.parent.name)
    assert sorted(finding.path for finding in findings) == fixture.paths
    severity = getattr(fixture, "severity", all_rules()[path.parent.name].severity)
    assert {finding.severity for finding in findings} == {severity}
    for finding in findings:
        assert finding.message
        assert finding.mend
        assert f"[{finding.rule}]" in str(finding)
        assert finding.file in (None, str(path))
    if hasattr(fixture, "mend"):
        assert any(fixture.mend in finding.mend for finding in findings)
    if hasattr(fixture, "line"):
        assert fixture.line in [finding.line for finding in findings]
    if hasattr(fixture, "said"):
        assert any(fixture.said in finding.message for finding in findings)


@pytest.mark.parametrize("path", MUST_NOT, ids=named)
def test_what_only_looks_like_a_mistake_is_not_found(path: Path) -> None:
    assert found(imported(path), path.parent.name) == []


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_has_its_text_and_fixtures(rule: str) -> None:
    data = all_rules()[rule]
    for text in (data.what, data.why, data.mend):
        assert text.endswith(".")
    assert data.severity in SEVERITIES
    assert len([path for path in MUST if path.parent.name == rule]) >= 2
    assert len([path for path in MUST_NOT if path.parent.name == rule]) >= 2


def test_each_fixture_has_its_rule() -> None:
    assert {path.parent.name for path in (*MUST, *MUST_NOT)} == set(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_the_example_of_a_rule_makes_the_mistake_and_mends_it(rule: str, tmp_path: Path) -> None:
    data = all_rules()[rule]
    for text, mistaken in ((data.before, True), (data.after, False)):
        path = tmp_path / f"{mistaken}.py"
        path.write_text(text)
        module = imported(path)
        module.__dict__.setdefault("subject", module.Net)
        assert bool(found(module, rule)) is mistaken, text
