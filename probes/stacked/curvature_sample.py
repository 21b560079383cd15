"""Each class's second moment of rows, weighted by its curvature, from a sample of frames that misses no class or code.

Of n frames to take, a half are spread over all frames and a half over the classes, and every code has a few. Frame i is
taken at a rate of

    q_i = min(1, max(n / (2 N), n / (2 K n_k), e / n_v))

with n_k the frames of its class, n_v those of the rarest of its codes, and stands for 1 / q_i frames (Horvitz and
Thompson 1952, DOI 10.1080/01621459.1952.10483446). A uniform sample has next to no frame of a rare class, whose own
frames hold half of its curvature.

From the sample each class's moment is that of some hundreds of frames, drawn in proportion to their share r_i p_ik
(1 - p_ik) of its curvature times their squared norm along the directions, for that bounds what a frame adds to the
moment (Drineas, Kannan and Mahoney 2006, DOI 10.1137/S0097539704442684).
"""

import numpy as np
from numpy.typing import NDArray

from probes.stacked.cooccurrence import code_sums
from probes.stacked.directions import Directions
from probes.stacked.maps import LookupMap
from probes.stacked.passes import probabilities
from probes.stacked.problem import StackedLogisticProblem

Array = NDArray[np.float64]
Single = NDArray[np.float32]

_FRAMES, _CELLS = 50_000, 1 << 23  # at most so many frames, and numbers in their table of probabilities
_FRAMES_A_CODE = 4
_BLOCK_FRAMES = 1 << 20
_GOLDEN = 0.6180339887498949


def draw_frames(problem: StackedLogisticProblem, n: int) -> tuple[NDArray[np.intp], Array]:
    """Return about `n` frames and how many each stands for, float64; a few more where codes are rare.

    Multiples of the golden ratio, modulo one, are spread more evenly than random numbers, over any long piece of the
    frames, and are the same every time.
    """
    if n >= problem.n_frames:
        return np.arange(problem.n_frames), np.ones(problem.n_frames)
    of_class = np.maximum(n / (2.0 * problem.n_frames), n / (2.0 * problem.n_classes * problem.n_per_class))
    of_codes = _FRAMES_A_CODE / np.maximum(code_sums(problem.codes, problem.stack.n_codewords), 1.0)
    taken, stands_for = [], []
    for start in range(0, problem.n_frames, _BLOCK_FRAMES):
        block = slice(start, min(start + _BLOCK_FRAMES, problem.n_frames))
        rate = of_class[problem.y[block]]
        for of_layer, codes in zip(of_codes, problem.codes[:, block], strict=True):
            np.maximum(rate, of_layer[codes], out=rate)
        chosen = np.flatnonzero(np.arange(block.start, block.stop) * _GOLDEN % 1.0 < rate)
        taken.append(block.start + chosen)
        stands_for.append(1.0 / np.minimum(rate[chosen], 1.0))
    return np.concatenate(taken), np.concatenate(stands_for)


class CurvatureSample:
    """A sample of frames along some directions, and each frame's share in each class's curvature.

    Parameters
    ----------
    problem : StackedLogisticProblem
    directions : Directions
    rows : integer array of shape (n_chosen,)
        Which of the directions.
    unknown : float64 array of shape (dim + 1, n_classes)
        Where the curvature is taken.
    """

    def __init__(
        self, problem: StackedLogisticProblem, directions: Directions, rows: NDArray[np.intp], unknown: Array
    ) -> None:
        chosen, stands_for = draw_frames(problem, min(_FRAMES, max(1, _CELLS // problem.n_classes)))
        codes = problem.codes[:, chosen]
        p = probabilities(problem.stack, codes, unknown)
        p *= 1.0 - p
        p *= (problem.weight_of_class[problem.y[chosen]] * stands_for).astype(np.float32)[:, None]
        selector = np.zeros((len(directions.strength), len(rows)))
        selector[rows, np.arange(len(rows))] = 1.0
        lookups = LookupMap(problem.stack)
        # No more columns than chosen directions: the sample's rows are never formed in full.
        features = lookups.logits(
            lookups.encode(codes, np.float32), lookups.prepare(directions.restore(selector), np.float32)
        )
        self._features = np.hstack([features, np.ones((len(features), 1), np.float32)])
        self._squared_norm = np.einsum("ij,ij->i", self._features, self._features)
        self._total = p.sum(axis=0, dtype=np.float64)
        p *= self._squared_norm[:, None]
        self._so_far = np.cumsum(p, axis=0, dtype=np.float64)

    def moment(self, k: int, n_drawn: int) -> Single:
        """Return the mean of x~ x~', x~ the row with a one for the intercept, in the curvature of class k."""
        so_far = self._so_far[:, k]
        if not so_far[-1] > 0:
            return np.eye(self._features.shape[1], dtype=np.float32)  # no frame is in doubt: all moments are as good
        # Evenly spaced in the cumulated share: less noise than independent draws, and no random numbers.
        at = (np.arange(n_drawn) + 0.5) / n_drawn * so_far[-1]
        drawn, times = np.unique(np.minimum(np.searchsorted(so_far, at), len(so_far) - 1), return_counts=True)
        weight = times / (n_drawn * self._squared_norm[drawn]) * (so_far[-1] / self._total[k])
        features = self._features[drawn] * np.sqrt(weight).astype(np.float32)[:, None]
        moment: Single = features.T @ features
        return moment
