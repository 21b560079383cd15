"""The saturated parametrisation for codebooks of steep spectrum: faint directions are held by the penalty.

`LogitSpace`'s metric knows of the penalty Q only its diagonal. Where the codewords hardly vary along some directions,
Q is stiff there and that metric fails. Those few directions are split off,

    Q = diag(q) + U diag(l) U',    l the largest eigenvalues of Q relative to the codes' weights,

with q what the diagonal of Q has left, and each class's block diag(r p (1 - p)) + Q is inverted by the identity of
Sherman, Morrison and Woodbury (Hager 1989, DOI 10.1137/1031049) in as many unknowns as there are stiff directions.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from probes.class_blocks import apply_blocks, inverse_blocks, is_due, largest_block
from probes.logit_space import LogitSpace
from probes.shared_inverse import SharedInverse, alike, curvature_of
from probes.single import Matrix

Array = NDArray[np.float64]
Single = NDArray[np.float32]

# Penalty, in units of the typical loss curvature 1 / n_classes, from which a direction counts as stiff.
_STIFF_PENALTY = 0.1
# From here on a stiff direction that is not split off is a trouble.
_TROUBLE_PENALTY = 2.0
# Share of troubling directions from which whitened features, where they are harmless, serve better.
_MANY = 0.35
# Iterations between two refreshes, and what a number read from a block costs in multiplications of a matrix product:
# for choosing between blocks and the inverse that classes share.
_TYPICAL_ITERATIONS = 25
_READING_WORK = 6
# Penalty, in units of the codes' weights (no loss curves by more than a quarter), that holds a direction by itself.
_HELD_PENALTY = 10.0
# Of q, relative to what the penalty has left for a code of median weight: on rare codes less would be rounding noise.
_SMALLEST_REST = 0.2


class StiffSpace(LogitSpace):
    """`LogitSpace` whose metric inverts the stiff directions of the penalty exactly, class by class.

    Parameters
    ----------
    logit : LogitSpace
        The same problem's; its penalty is shared.
    """

    name = "stiff"

    def __init__(self, logit: LogitSpace):
        vars(self).update(vars(logit))
        weights = self.problem.weights
        n_classes = self.problem.n_classes
        self._strengths, directions, left = _stiff_directions(self._penalty, weights, n_classes)
        self.n_troubling = int((self._strengths * n_classes > _TROUBLE_PENALTY).sum())
        rest = self._penalty_diagonal - (np.square(directions) @ self._strengths)[:, None]
        self._rest = np.maximum(rest, _SMALLEST_REST * left * np.median(weights))
        self._directions = Matrix(directions)
        self._held = _HeldDirections(directions, self._strengths, weights)
        self._inverse_diagonal = np.empty((0, 0), dtype=np.float32)
        self._blocks = np.empty((0, 0, 0), dtype=np.float32)
        self._alike = np.zeros(n_classes, dtype=bool)
        self._shared: SharedInverse | None = None
        self._n_refreshes = 0

    @property
    def is_promising(self) -> bool:
        """Whether blocks of the stiff directions are cheap, next to the whole, and hold all that would slow it down."""
        most = min(_MANY * self._n_codes, largest_block(self._n_codes, self.problem.n_classes))
        return bool(self.n_troubling <= most)

    @property
    def n_stiff(self) -> int:
        """Number of stiff directions."""
        return len(self._strengths)

    @property
    def iteration_cost(self) -> float:
        """Multiplications of one iteration's products, per class."""
        return super().iteration_cost + float(self.n_stiff * (2 * self._n_codes + self.n_stiff))

    @property
    def refresh_cost(self) -> float:
        """Multiplications of `refresh`, per class."""
        return float(self.n_stiff**2 * (self._n_codes + self.n_stiff))

    def is_stale(self, estimates: Sequence[float]) -> bool:
        """Ask for a refresh as `is_due` says."""
        return is_due(estimates, self._n_refreshes, self.refresh_cost / self.iteration_cost)

    def refresh(self, probabilities: Array) -> None:
        """Rebuild the classes' blocks at these probabilities, and the inverse that those of like curvature share."""
        self._n_refreshes += 1
        curvature = curvature_of(self.problem.weights, probabilities)
        self._alike = alike(self.problem.weights, self.problem.targets, curvature)
        if not self._is_shared_cheaper(int(self._alike.sum())):
            self._alike[:] = False
        self._shared = SharedInverse(self._penalty.values, curvature[:, self._alike]) if self._alike.any() else None
        inverse_diagonal = 1.0 / (curvature[:, ~self._alike] + self._rest)
        self._inverse_diagonal = inverse_diagonal.astype(np.float32)
        self._blocks = inverse_blocks(self._directions.values, inverse_diagonal, 1.0 / self._strengths)

    def metric(self, probabilities: Array) -> Callable[[Array], Array]:
        """Return the inverse of the class blocks of the last `refresh`."""

        def apply(gradient: Array) -> Array:
            balanced = gradient - gradient.mean(axis=1, keepdims=True)
            size = np.abs(balanced).max() or 1.0
            force = (balanced / size).astype(np.float32)  # what float32 can hold, however small the gradient
            step = np.empty_like(force)
            if self._shared is not None:
                step[:, self._alike] = self._shared.of(force[:, self._alike])
            step[:, ~self._alike] = self._by_blocks(force[:, ~self._alike])
            scaled: Array = float(size) * step.astype(np.float64)
            scaled -= scaled.mean(axis=1, keepdims=True)
            return scaled

        return apply

    def _is_shared_cheaper(self, n_alike: int) -> bool:
        """Say whether one inverse over all codes costs less than `n_alike` blocks, until the next refresh."""
        n, size = self._n_codes, self.n_stiff
        blocks = self.refresh_cost + _TYPICAL_ITERATIONS * size * (2 * n + _READING_WORK * size)
        return bool(n**3 + _TYPICAL_ITERATIONS * n_alike * n**2 < n_alike * blocks)

    def _by_blocks(self, force: Single) -> Single:
        force, along = self._held.split(force)
        step = force * self._inverse_diagonal
        pull = apply_blocks(self._blocks, self._directions.transposed_times(step))
        step -= self._inverse_diagonal * (self._directions @ pull)
        return self._held.join(step, along)

    def _kept(self, probabilities: Array, gradient: Array) -> Array:
        # Along a stiff direction the penalty l and the loss, about p of the typical code, share what is to be held.
        weights = self.problem.weights
        typical = np.exp((weights * np.log(np.maximum(probabilities, np.finfo(float).tiny))).sum(axis=0))
        along = self._directions.transposed_times((gradient / weights).astype(np.float32))
        strengths = self._strengths[:, None]
        return self._directions @ np.asarray(along * (strengths / (strengths + typical)), dtype=np.float32)


class _HeldDirections:
    """Directions that the penalty holds by itself, split off before the metric and joined again after it.

    By the identity of Sherman, Morrison and Woodbury the metric's small answer along them would be the difference of
    large numbers, which float32 does not give. The loss hardly couples them to the others, so each is left alone.
    """

    def __init__(self, directions: Array, strengths: Array, weights: Array) -> None:
        held = strengths > _HELD_PENALTY
        self._directions = Matrix(directions[:, held])
        self._dual = Matrix(directions[:, held] / weights)  # dual' directions = 1
        self._strengths = strengths[held, None].astype(np.float32)

    def split(self, force: Single) -> tuple[Single, Single]:
        """Return the force without its part along these directions, and that part."""
        along = self._dual.transposed_times(force)
        return force - self._directions @ along, along

    def join(self, step: Single, along: Single) -> Single:
        """Return the step with its part along these directions replaced by what `along` moves them."""
        wanted = along / self._strengths - self._directions.transposed_times(step)
        joined: Single = step + self._dual @ wanted
        return joined


def _stiff_directions(penalty: Matrix, weights: Array, n_classes: int) -> tuple[Array, Array, float]:
    """Return stiff eigenvalues l (n_stiff,), U (n_codes, n_stiff), and the mean of the eigenvalues that are left.

    The penalty is U diag(l) U' and the rest, in units of the codes' weights. float32 where it is precise enough.
    """
    root = np.sqrt(weights)
    scaled = penalty.values / root / root.T
    least = _STIFF_PENALTY / n_classes
    strengths, vectors = _largest_eigenpairs(scaled, least, in_single=penalty.in_single)
    limit = largest_block(len(root), n_classes)
    strengths, vectors = strengths[-limit:].astype(np.float64), vectors[:, -limit:]  # eigh sorts upwards
    n_left = max(len(root) - 1 - len(strengths), 1)  # one eigenvalue is zero
    left = (np.trace(scaled) - strengths.sum()) / n_left
    return strengths, vectors * root, max(left, _SMALLEST_REST * least)


def _largest_eigenpairs(matrix: Array, least: float, in_single: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the eigenvalues above `least`, upwards, and their vectors; in float32 if asked, and if that converges."""
    if in_single:
        with contextlib.suppress(np.linalg.LinAlgError):
            return _eigenpairs(matrix.astype(np.float32), least)
    return _eigenpairs(matrix, least)


def _eigenpairs(matrix: NDArray[Any], least: float) -> tuple[NDArray[Any], NDArray[Any]]:
    values, vectors = eigh(matrix, driver="evr", subset_by_value=(least, np.inf))
    return values, vectors
