"""The modes of torch, which a constructor or a forward may change for good."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def modes_restored() -> Iterator[None]:
    """Put back the modes that are changed inside: the default dtype and device, whether gradients
    are recorded and anomalies looked for, how exact products are, and which kernels may run."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    grad, precision = torch.is_grad_enabled(), torch.get_float32_matmul_precision()
    strict = torch.are_deterministic_algorithms_enabled()
    warn = torch.is_deterministic_algorithms_warn_only_enabled()
    anomaly, nan = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        torch.autograd.set_detect_anomaly(anomaly, nan)
        if torch.get_default_device() != device:
            # One that is set takes part in every call of torch: none is, where it is the CPU.
            torch.set_default_device(None if device == torch.device("cpu") else device)
        if torch.get_float32_matmul_precision() != precision:
            torch.set_float32_matmul_precision(precision)
        if (
            torch.are_deterministic_algorithms_enabled() != strict
            or torch.is_deterministic_algorithms_warn_only_enabled() != warn
        ):
            torch.use_deterministic_algorithms(strict, warn_only=warn)
