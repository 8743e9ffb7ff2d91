"""Findings as a workflow of GitHub shows them: beside the lines that they are about.

See https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions.
"""

from chimera.check.finding import Finding

_LEVELS = {"error": "error", "warning": "warning", "info": "notice"}


def annotation(finding: Finding) -> str:
    """One workflow command, on one line."""
    place = {"title": f"{finding.rule} at {finding.path or 'the root'}"}
    if finding.file is not None:
        place["file"] = finding.file
    if finding.line is not None:
        place["line"] = str(finding.line)
    properties = ",".join(f"{name}={_property(value)}" for name, value in place.items())
    text = f"{finding.message}\n{finding.why}\n{finding.mend}"
    return f"::{_LEVELS[finding.severity]} {properties}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
