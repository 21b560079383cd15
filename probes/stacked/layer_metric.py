"""An approximate inverse Hessian for layers side by side: each layer's own curvature exactly, layers as if independent.

Within one layer the curvature of class k sees frames through their codes alone. With d_k[v] the sum of
r_i p_ik (1 - p_ik) over the frames of code v, all of it from one pass over all frames, F the layer's table along its
directions, a_k = sum_v d_k[v] and m_k = F' d_k / a_k the mean row near class k, the block of class k is

    H_k = F' diag(d_k) F - a_k m_k m_k' + diag(l2 / s_j^2)

once the intercept is solved for, which takes up the mean. Along a layer's directions of largest variance it is inverted
as a block for each class, along the others by its diagonal. A class lives on few codes, where its curvature is far
above the mean of all classes, while codes of two layers are nearly independent of each other: what this keeps weighs
more than what it drops.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probes.class_blocks import apply_blocks
from probes.stacked.directions import Directions
from probes.stacked.maps import LookupMap
from probes.stacked.metric import OWN_SHARE, SECONDS_PRODUCT, largest_affordable, mixed_inverse
from probes.stacked.passes import softmax_rows
from probes.stacked.problem import StackedLogisticProblem

Array = NDArray[np.float64]
Single = NDArray[np.float32]

_BLOCK_CELLS = 1 << 19  # of a block's table of probabilities
_WORTH_PASSES = 200.0  # near interpolation, without these blocks, passes are counted in hundreds


def code_curvature(problem: StackedLogisticProblem, unknown: Array) -> Array:
    """Return d, the sum of r_i p_ik (1 - p_ik) over each code's frames: float64 (n_layers, n_codewords, n_classes).

    Parameters
    ----------
    problem : StackedLogisticProblem
    unknown : float64 array of shape (dim + 1, n_classes)
        Where it is taken.
    """
    lookups = LookupMap(problem.stack)
    prepared, intercept = lookups.prepare(unknown[:-1], np.float32), unknown[-1].astype(np.float32)
    weight_of_class = problem.weight_of_class.astype(np.float32)
    sums = np.zeros((lookups.n_sums, problem.n_classes))
    n = max(1, _BLOCK_CELLS // problem.n_classes)
    for start in range(0, problem.n_frames, n):
        block = slice(start, start + n)
        encoded = lookups.encode(problem.codes[:, block], np.float32)
        p = lookups.logits(encoded, prepared)
        p += intercept
        softmax_rows(p)
        p *= 1.0 - p
        p *= weight_of_class[problem.y[block]][:, None]
        sums += lookups.pull(encoded, p)
    return sums.reshape(problem.stack.n_layers, problem.stack.n_codewords, problem.n_classes)


@dataclass(frozen=True)
class _Layer:
    """One layer's part: its place among all directions, mean rows, inverse diagonals, and blocks of some directions."""

    place: slice
    mean: Single  # (n_directions, n_classes)
    inverse: Single  # (n_directions, n_classes)
    rows: NDArray[np.intp]  # directions that have blocks
    blocks: Single  # (n_classes, len(rows), len(rows))

    def apply(self, projected: Array, of_intercept: Array) -> Array:
        """Return the step along this layer's directions, from the gradients over them and over the intercept."""
        centred = projected[self.place] - self.mean * of_intercept
        step = self.inverse * centred
        step[self.rows] = apply_blocks(self.blocks, centred[self.rows])
        return step


class LayerMetric:
    """Blocks of each class and layer (see `probes.stacked.metric.Metric`).

    Parameters
    ----------
    problem : StackedLogisticProblem
        Of rows side by side.
    directions : Directions
        One part a layer.
    unknown : float64 array of shape (dim + 1, n_classes)
        Where curvature is taken.
    """

    def __init__(self, problem: StackedLogisticProblem, directions: Directions, unknown: Array) -> None:
        self._directions = directions
        curvature = code_curvature(problem, unknown)
        total = curvature[0].sum(axis=0)
        self._curvature = np.maximum(total, 1e-12 * total.max())
        size = largest_layer_block(problem)
        self._layers, first = [], 0
        for (_, basis), table, of_codes in zip(directions.parts, problem.stack.tables, curvature, strict=True):
            place = slice(first, first + basis.shape[1])
            features = table.astype(np.float32) @ basis
            self._layers.append(_layer(place, features, of_codes, self._curvature, directions.strength[place], size))
            first = place.stop

    def __call__(self, gradient: Array) -> Array:
        """Return the image of a gradient."""
        projected, of_intercept = self._directions.project(gradient[:-1]), gradient[-1]
        intercept, steps = of_intercept / self._curvature, []
        for layer in self._layers:
            steps.append(layer.apply(projected, of_intercept))
            intercept = intercept - np.einsum("jk,jk->k", layer.mean, steps[-1])
        step = np.vstack([*steps, intercept])
        step -= step.mean(axis=1, keepdims=True)
        return np.vstack([self._directions.restore(step[:-1]), step[-1:]])


def _layer(place: slice, features: Single, of_codes: Array, curvature: Array, strength: Array, size: int) -> _Layer:
    """Make one layer's part from its features (n_codewords, n_directions) and d (n_codewords, n_classes)."""
    used = of_codes.any(axis=1)
    features, shares = features[used], (of_codes[used] / curvature).astype(np.float32)
    mean = features.T @ shares
    variance = np.maximum(np.square(features).T @ shares - np.square(mean), 0.0)
    diagonal = curvature * (OWN_SHARE * variance + (1.0 - OWN_SHARE)) + strength[:, None]
    rows = np.sort(np.argsort(strength, kind="stable")[:size])
    blocks = np.empty((len(curvature), len(rows), len(rows)), dtype=np.float32)
    softest = np.ascontiguousarray(features[:, rows])
    for k, share in enumerate(np.sqrt(shares).T):
        near = (softest - mean[rows, k]) * share[:, None]
        blocks[k] = mixed_inverse(near.T @ near, curvature[k], strength[rows])
    return _Layer(place, mean, (1.0 / diagonal).astype(np.float32), rows, blocks)


def largest_layer_block(problem: StackedLogisticProblem) -> int:
    """Return how many directions a layer's blocks may have, so that they pay (the same on every machine)."""
    stack = problem.stack
    by_tables = 2.0 * stack.tables.size * problem.n_classes * SECONDS_PRODUCT  # a pass' products with the tables
    n_blocks = stack.n_layers * problem.n_classes
    n_directions = stack.tables.shape[2]
    return largest_affordable(problem, n_directions, n_blocks, stack.n_codewords, _WORTH_PASSES, by_tables)
