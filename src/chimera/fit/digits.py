"""The handwritten digits that scikit-learn carries."""

from collections.abc import Sequence

import torch

from chimera.fit.data import Data, data


def digits(split: Sequence[float] = (0.6, 0.2, 0.2), seed: int = 0) -> Data:
    """1,797 handwritten digits, 8x8 grey values: ``x`` [samples, 64] in [0, 1], ``y`` 0 to 9.

    From the "Optical Recognition of Handwritten Digits" set (Alpaydin and Kaynak, 1998, UCI
    Machine Learning Repository; the part that scikit-learn's ``load_digits`` carries).

    Args:
        split: the fractions of the train, validation and test parts.
        seed: decides which digit is in which part.

    Raises:
        ImportError: scikit-learn is not installed; ``chimera-nn[data]`` brings it.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits come with scikit-learn, which is not installed; "
            "install it with: pip install 'chimera-nn[data]'"
        ) from error
    images = load_digits()
    x = torch.from_numpy(images.data).to(torch.float32) / 16
    y = torch.from_numpy(images.target).to(torch.int64)
    return data(x, y, split=split, seed=seed, name="digits")
