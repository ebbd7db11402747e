"""LISTA, an unrolled solver: so many learned iterations of soft thresholding (Gregor and LeCun, 2010)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from warmstart.fast import kernels


@dataclass(frozen=True, eq=False)
class Lista:
    """K layers z <- shrink(y + gain_k W (s - D y), threshold_k) with y = z + momentum_k (z - the z before), from z = 0.

    The output (n,) is own * z + head (s - D z) after the last layer: what soft thresholding would be applied to next,
    in units of twice the weight. Without a head (0, m) it is the code z. The layers share W (Chen et al., 2018, 2019).
    Shapes: mean, scale (m,), which take a standardised context to the signal s; atoms, weights, head (n, m), with the
    rows of D'; thresholds (K, n); gains, momenta (K,); own (n,). Stored in float16 or float32, computed in float32.
    """

    mean: np.ndarray
    scale: np.ndarray
    atoms: np.ndarray
    weights: np.ndarray
    thresholds: np.ndarray
    gains: np.ndarray
    momenta: np.ndarray
    own: np.ndarray
    head: np.ndarray
    arrays: tuple[np.ndarray, ...] = field(init=False, repr=False)
    """The arrays from `atoms` on, in order, in float32."""

    def __post_init__(self) -> None:
        (n, m), layers = self.atoms.shape, len(self.gains)
        shapes = [(n, m), (layers, n), (layers,), (n,)]
        found = [self.weights.shape, self.thresholds.shape, self.momenta.shape, self.own.shape]
        sides = [(m,), (m,)] == [self.mean.shape, self.scale.shape] and self.head.shape in ((n, m), (0, m))
        if found != shapes or not sides or self.gains.ndim != 1:
            raise ValueError("the arrays of a Lista do not fit together")
        stored = self.atoms, self.weights, self.thresholds, self.gains, self.momenta, self.own, self.head
        object.__setattr__(self, "arrays", tuple(np.ascontiguousarray(a, dtype=np.float32) for a in stored))

    @property
    def layers(self) -> int:
        """Iterations that a solver would count: each has one product with D and one with something of its size."""
        return len(self.gains) + (len(self.head) > 0)

    def __call__(self, context: np.ndarray) -> np.ndarray:
        """The output (n,) for a standardised context (m,)."""
        fast, signal = kernels("refine.support_kernels"), (context * self.scale + self.mean).astype(np.float32)
        if fast is not None:
            return fast.lista(signal, *self.arrays)
        return self._run(signal[None])[0].astype(np.float64)

    def many(self, contexts: np.ndarray) -> np.ndarray:
        """The outputs (N, n) for standardised contexts (N, m)."""
        return self._run((contexts * self.scale + self.mean).astype(np.float32)).astype(np.float64)

    def _run(self, signals: np.ndarray) -> np.ndarray:
        atoms, weights, thresholds, gains, momenta, own, head = self.arrays
        left = signals
        before = z = np.zeros((len(signals), len(atoms)), dtype=np.float32)
        for k, (gain, momentum) in enumerate(zip(gains, momenta, strict=True)):
            y = z
            if k > 1:  # before, there is nothing to extrapolate from
                y = z + momentum * (z - before)
            if k:
                left = signals - y @ atoms
            u = y + gain * (left @ weights.T)
            before, z = z, u - np.clip(u, -thresholds[k], thresholds[k])
        return own * z + (signals - z @ atoms) @ head.T if len(head) else z
