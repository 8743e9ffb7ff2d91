"""The command line, one file a command."""

from chimera.cli.main import main

__all__ = ["main"]
