"""Linear regression on stacked rows, exactly, from code co-occurrence: the least-norm minimiser.

Normal equations square the condition of what they are made from. Codebooks have conditions up to 1e5, so they must not
be squared together with the rest, and are not:

- concat: each layer's centred table, weighted by sqrt(n_v), is decomposed by itself (SVD, singular values at rounding
  level count as zero); in these whitened features the normal matrix has unit blocks on its diagonal and the layers'
  correlations beside it, F_l' N_lm F_m. Only how nearly the layers repeat each other is squared.
- cumulative: rows are sums, so the D x D second moment itself is decomposed; directions whose standard deviation is
  below 1e-7 of the largest are rounding noise in it and count as zero (an SVD of the rows would reach 1e-13).

The solution is then refined on residuals taken afresh from the frames, in double precision, which removes what the
squared condition cost (Bjorck 1987, corrected seminormal equations, DOI 10.1016/0024-3795(87)90101-7). Where layers
repeat each other to rounding, the least-norm solution is taken by an eigendecomposition.
"""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, eigh, lstsq, svd
from scipy.linalg.lapack import dpocon
from threadpoolctl import threadpool_limits

from probes.problem import Fit
from probes.stacked.cooccurrence import code_sums, pair_counts, second_moment
from probes.stacked.predict import frame_sums
from probes.stacked.problem import StackedLeastSquaresProblem
from probes.stacked.stack import Stack

Array = NDArray[np.float64]
_EPS = float(np.finfo(np.float64).eps)
_MAX_REFINEMENTS = 10
# Smallest standard deviation of a direction, relative to the largest, that a second moment can tell from none.
_SMALLEST_DEVIATION = 1e-7


def fit_stacked_least_squares(problem: StackedLeastSquaresProblem) -> Fit:
    """Minimise the squared error; `gap_bound` is what the whitened features could still explain (Hz^2)."""
    begin = time.perf_counter()
    if not (np.isfinite(problem.stack.tables).all() and np.isfinite(problem.y).all()):
        return _non_finite(problem, begin)
    with threadpool_limits(limits=1, user_api="blas"), np.errstate(all="ignore"):
        try:
            return _fit(problem, begin)
        except (np.linalg.LinAlgError, ValueError):
            return _non_finite(problem, begin)  # finite rows that overflow when squared


def _fit(problem: StackedLeastSquaresProblem, begin: float) -> Fit:
    n = len(problem.y)
    n_of_codes = code_sums(problem.codes, problem.stack.n_codewords)
    # Rows of any scale: squares of very small or large numbers would leave the range of floating point.
    exponent = int(np.frexp(np.abs(problem.stack.tables).max())[1])
    scaled = Stack(np.ldexp(problem.stack.tables, -exponent), problem.stack.representation)
    stack, mean = scaled.centred(n_of_codes / n)
    y_mean = float(problem.y.mean())
    # Codewords that are all equal are left with the rounding of their mean, which is no variation.
    noise = _EPS * np.linalg.norm(np.einsum("lv,lvd->ld", n_of_codes / n, scaled.tables), axis=1)
    basis = _whitening(stack, problem.codes, n_of_codes / n, noise)
    solve = _solver(_correlations(stack, problem.codes, basis), basis)
    coef, residual, gap, n_steps = np.zeros(stack.dim), problem.y - y_mean, np.inf, 0
    while n_steps < _MAX_REFINEMENTS:
        pulled = stack.gather(code_sums(problem.codes, stack.n_codewords, residual).reshape(-1, 1))[:, 0] / n
        step, explainable = solve(pulled)
        if not explainable < 0.25 * gap:
            break
        gap, n_steps = explainable, n_steps + 1
        coef += step
        residual = problem.y - y_mean - frame_sums(stack, problem.codes, coef)
    pulled = stack.gather(code_sums(problem.codes, stack.n_codewords, residual).reshape(-1, 1))[:, 0] / n
    left = solve(pulled)[1] + float(residual.mean()) ** 2
    value = float(np.mean(np.square(residual)))
    intercept = np.array([y_mean - float(coef @ mean)])
    coef = np.ldexp(coef, -exponent)
    if not (np.isfinite(value) and np.isfinite(coef).all()):
        return _non_finite(problem, begin)
    seconds = time.perf_counter() - begin
    return Fit(coef[None, :], intercept, "converged", n_steps, value, seconds, gap_estimate=left, gap_bound=left)


def _whitening(stack: Stack, codes: NDArray[np.uint16], shares: Array, noise: Array) -> list[tuple[slice, Array]]:
    """Return, for each part of a row, directions (length, rank) of unit variance, orthogonal among themselves.

    `noise` is the rounding of each layer's centred numbers.
    """
    if stack.representation == "cumulative":
        variance, rotation = eigh(second_moment(stack, codes) / codes.shape[1], driver="evd")
        keep = variance > max(_SMALLEST_DEVIATION**2, len(variance) * _EPS) * max(variance[-1], 0.0)
        keep &= variance > (len(variance) * noise.sum()) ** 2
        return [(slice(0, stack.dim), rotation[:, keep] / np.sqrt(variance[keep]))]
    parts = []
    for layer, (table, share) in enumerate(zip(stack.tables, shares, strict=True)):
        weighted = table[share > 0] * np.sqrt(share[share > 0])[:, None]
        _, deviation, right = svd(weighted, full_matrices=False)
        keep = deviation > max(weighted.shape) * max(_EPS * deviation.max(initial=0.0), float(noise[layer]))
        parts.append((stack.part(layer), right[keep].T / deviation[keep]))
    return parts


def _correlations(stack: Stack, codes: NDArray[np.uint16], basis: list[tuple[slice, Array]]) -> Array:
    """Return the second moment of the whitened features, float64 (rank, rank): the identity but between layers."""
    ranks = np.cumsum([0, *(directions.shape[1] for _, directions in basis)])
    moment = np.eye(ranks[-1])
    if stack.representation == "cumulative":
        return moment
    features = [table @ directions for table, (_, directions) in zip(stack.tables, basis, strict=True)]
    for first, second, counts in pair_counts(codes, stack.n_codewords):
        block = features[first].T @ ((counts / codes.shape[1]) @ features[second])
        one, other = (slice(ranks[layer], ranks[layer + 1]) for layer in (first, second))
        moment[one, other], moment[other, one] = block, block.T
    return moment


def _solver(moment: Array, basis: list[tuple[slice, Array]]) -> Callable[[Array], tuple[Array, float]]:
    """Return a function from X' r / n to the step in coefficients and the mean square that it explains."""
    inverse = _inverse(moment, basis)

    def solve(pulled: Array) -> tuple[Array, float]:
        projected = np.concatenate([directions.T @ pulled[part] for part, directions in basis])
        step = inverse(projected)
        return _restore(step, basis), float(projected @ step)

    return solve


def _restore(step: Array, basis: list[tuple[slice, Array]]) -> Array:
    """Return coefficients of whitened features (rank, ...) as coefficients of rows (dim, ...)."""
    ranks = np.cumsum([0, *(directions.shape[1] for _, directions in basis)])
    pieces = [directions @ step[ranks[i] : ranks[i + 1]] for i, (_, directions) in enumerate(basis)]
    return np.concatenate(pieces)


def _inverse(moment: Array, basis: list[tuple[slice, Array]]) -> Callable[[Array], Array]:
    """Return the map to the least-norm solution of moment z = projected, the norm being that of the coefficients."""
    if not len(moment):  # no feature varies: the mean is the answer, and LAPACK takes no empty matrix
        return lambda projected: projected
    norm = float(np.abs(moment).sum(axis=0).max())
    try:
        factor = cho_factor(moment, lower=True)
        reciprocal_condition, _ = dpocon(factor[0], norm, uplo="L")
        if reciprocal_condition > len(moment) * _EPS:
            return lambda projected: np.asarray(cho_solve(factor, projected))
    except np.linalg.LinAlgError:
        pass
    variance, rotation = eigh(moment, driver="evd")
    keep = variance > len(moment) * _EPS * variance[-1]
    scaled, null = rotation[:, keep] / variance[keep], rotation[:, ~keep]
    idle = _restore(null, basis)  # changes of coefficients that change no training row

    def solve(projected: Array) -> Array:
        step = scaled @ (rotation[:, keep].T @ projected)
        along, *_ = lstsq(idle, -_restore(step, basis))
        return np.asarray(step + null @ along)

    return solve


def _non_finite(problem: StackedLeastSquaresProblem, begin: float) -> Fit:
    coef = np.full((1, problem.stack.dim), np.nan)
    return Fit(coef, np.array([np.nan]), "non_finite", 0, float("nan"), time.perf_counter() - begin)
