"""The user's mistake on the command line: one line on standard error, exit code 2."""


class Mistake(ValueError):
    """What was given, what was expected and the mend, in one sentence."""


def one_line(text: object) -> str:
    """``text`` on one line, its blanks single."""
    return " ".join(str(text).split())
