"""The page of a check rule in the documentation, made from its text."""

from collections.abc import Iterable

from chimera.check.rule import Rule


def page(rule: Rule) -> str:
    """A page in Markdown."""
    return f"""\
# {rule.name}

{rule.what}

**Why.** {rule.why}

**Mend.** {rule.mend}

Before ({rule.severity}):

```py
{rule.before.strip()}
```

After:

```py
{rule.after.strip()}
```

To leave a finding out: `# chimera: ignore[{rule.name}]` on its line or on the `class` line, or
`ch.check(..., ignore=["{rule.name}"])`.
"""


def index(rules: Iterable[Rule]) -> str:
    """The page that lists all rules, in Markdown."""
    rows = "\n".join(f"| [{r.name}]({r.name}.md) | {r.severity} | {r.what} |" for r in rules)
    return f"""\
# Check rules

| rule | severity | what it finds |
| --- | --- | --- |
{rows}
"""
