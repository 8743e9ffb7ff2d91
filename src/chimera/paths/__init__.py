"""Names, walking, patterns, ties, structure; notes on errors. The floor: imports nothing of ours."""

from chimera.paths.notice import ChimeraWarning

__all__ = ["ChimeraWarning"]
