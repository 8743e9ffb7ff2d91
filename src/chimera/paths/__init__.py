"""Names, walking, patterns, ties, structure; notes on errors."""

from chimera.paths.notice import ChimeraWarning

__all__ = ["ChimeraWarning"]
