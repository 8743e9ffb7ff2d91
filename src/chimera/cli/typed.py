"""What was typed behind ``chimera``, for a command that starts itself again."""

tokens: list[str] = []


def without(option: str) -> list[str]:
    """The tokens but for an option and its value, ``--devices 4`` or ``--devices=4``."""
    kept, skip = [], False
    for token in tokens:
        if skip:
            skip = False
        elif token == option:
            skip = True
        elif not token.startswith(f"{option}="):
            kept.append(token)
    return kept
