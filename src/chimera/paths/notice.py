"""The warning that Chimera gives."""


class ChimeraWarning(UserWarning):
    """Something was done that a user may want to know of: a tensor adopted, a slower path taken."""
