"""Multi-output ridge regression (Hoerl and Kennard, 1970) in factored form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Ridge:
    """offset (n_out,) + decode (n_out, r) @ (encode (r, d) @ context): exact for r = d, reduced-rank below.

    Raises ValueError for other shapes: compiled kernels look at no bounds.
    """

    encode: np.ndarray
    decode: np.ndarray
    offset: np.ndarray

    def __post_init__(self) -> None:
        (rank, _), outputs = self.encode.shape, len(self.offset)
        if self.decode.shape != (outputs, rank) or self.offset.ndim != 1:
            raise ValueError("the arrays of a Ridge do not fit together")

    def __call__(self, context: np.ndarray) -> np.ndarray:
        """The flat iterate (n_out,) for a standardised context (d,)."""
        return self.offset + self.decode @ (self.encode @ context)

    def many(self, contexts: np.ndarray) -> np.ndarray:
        """The flat iterates (N, n_out) for standardised contexts (N, d)."""
        return self.offset + (contexts @ self.encode.T) @ self.decode.T
