"""The errors of files that cannot be trusted and of directories that are in use."""


class CheckpointError(Exception):
    """A file does not hold what it should: the message names the file and what is wrong with it."""


class LockedError(Exception):
    """Another process writes to the directory: the message names its host and process id."""
