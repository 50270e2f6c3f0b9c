"""Variational Bayesian matrix factorisation: the rank estimate that places the sampled ranks.

Two steps, as the published metrics have it: analytic EMPIRICAL VBMF on the layer's matrix gives the noise variance
and the prior variance product of the leading component; then the plain VBMF threshold with that one prior for all
components counts the singular values above it.

Source: Nakajima, Sugiyama, Babacan, Tomioka, JMLR 14 (2013), Theorems 2 and 3 and Corollary of section 5; the
one-dimensional search over the noise variance is bounded by SciPy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy

# Root of tau -> Phi(sqrt(a) tau) + Phi(tau / sqrt(a)) with a = 1; the factor sqrt(a) is a good approximation for all a
# (Nakajima et al. 2013, section 5).
_TAU_BAR = 2.5129


@dataclass(frozen=True)
class VbmfEstimate:
    """Noise variance, prior variance product of the leading component, and the two rank estimates."""

    noise_variance: float
    prior: float
    empirical_rank: int
    rank: int


def _tau(x: np.ndarray, alpha: float) -> np.ndarray:
    return 0.5 * (x - (1 + alpha) + np.sqrt(np.maximum((x - (1 + alpha)) ** 2 - 4 * alpha, 0.0)))


def _free_energy(s2: float, rows: int, columns: int, squares: np.ndarray, x_bar: float) -> float:
    # Objective of the noise variance under empirical VBMF (Nakajima et al. 2013, Theorem 3); constants dropped.
    alpha = rows / columns
    x = squares / (columns * s2)
    big, small = x[x > x_bar], x[x <= x_bar]
    tau = _tau(big, alpha)
    value = np.sum(small - np.log(small)) + np.sum(big - tau)
    value += np.sum(np.log((tau + 1) / big)) + alpha * np.sum(np.log(tau / alpha + 1))
    return float(value)


def estimate(singular_values: np.ndarray, rows: int, columns: int) -> VbmfEstimate:
    """Noise, prior and rank of a matrix from its singular values.

    Parameters
    ----------
    singular_values : ndarray, shape (min(rows, columns),)
    rows, columns : int
        Sides of the matrix.

    Returns
    -------
    VbmfEstimate
        ``rank`` is the q that places the samples; ``empirical_rank`` the rank rule of [13].
    """
    low, high = sorted((rows, columns))
    s = np.asarray(singular_values, dtype=np.float64)[:low]
    if s.size == 0 or s[0] <= 0:
        return VbmfEstimate(0.0, 0.0, 0, 0)
    squares = np.maximum(s**2, np.finfo(np.float64).tiny)
    alpha = low / high
    tau_bar = _TAU_BAR * np.sqrt(alpha)
    x_bar = (1 + tau_bar) * (1 + alpha / tau_bar)
    s2 = _noise_variance(squares, low, high, alpha, x_bar)
    threshold = np.sqrt(high * s2 * x_bar)
    kept = s[s > threshold]
    if kept.size == 0:
        return VbmfEstimate(s2, 0.0, 0, 0)
    lead = float(kept[0])
    # Posterior mean of the leading component and its prior variance product (Theorem 2 and its Corollary).
    shrink = 1 - (low + high) * s2 / lead**2
    posterior = lead / 2 * (shrink + np.sqrt(max(shrink**2 - 4 * low * high * s2**2 / lead**4, 0.0)))
    prior2 = lead * posterior / (low * high)
    prior = float(np.sqrt(prior2))
    t = (low + high + s2 / prior2) / 2
    plain = np.sqrt(s2 * (t + np.sqrt(t * t - low * high)))
    return VbmfEstimate(s2, prior, int(kept.size), int(np.sum(s > plain)))


def _noise_variance(squares: np.ndarray, low: int, high: int, alpha: float, x_bar: float) -> float:
    # Bounds of the noise variance from Nakajima et al. 2013, Theorem 3.
    first_noise = min(max(int(np.ceil(low / (1 + alpha))) - 1, 0), low - 1)
    upper = float(np.sum(squares) / (low * high))
    tail = squares[first_noise:]
    lower = max(float(tail[0] / (high * x_bar)), float(np.mean(tail) / high))
    lower = max(min(lower, upper), upper * 1e-12)
    if not lower < upper:
        return upper
    # The objective has several local minima, and the published ranks come from where SciPy's bounded search stops at
    # its default absolute tolerance; a finer one ends in other minima (47 of ResNet-56's 55 layers within 1, not 55).
    found = scipy.optimize.minimize_scalar(
        lambda v: _free_energy(float(v), low, high, squares, x_bar), bounds=(lower, upper), method="bounded"
    )
    return float(found.x)
