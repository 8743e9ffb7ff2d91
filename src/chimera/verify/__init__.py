"""A stack against the loop."""

from chimera.verify.measure import Comparison
from chimera.verify.verify import Verification, VerificationError, verify

__all__ = ["Comparison", "Verification", "VerificationError", "verify"]
