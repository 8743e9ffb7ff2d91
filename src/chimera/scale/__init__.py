"""Several devices and machines, on ``torch.distributed``."""
