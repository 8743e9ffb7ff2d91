"""Several devices and machines, on ``torch.distributed``."""

from chimera.scale.distribute import distribute

__all__ = ["distribute"]
