"""The one error of files that cannot be trusted."""


class CheckpointError(Exception):
    """A file does not hold what it should: the message names the file and what is wrong with it."""
