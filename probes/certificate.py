"""A proof of how far a solution is from the optimum, in float64 and independent of how it was found.

For any table q whose rows are probabilities, with p the model's and s = 1'(r q - T), the gap to the minimum (W*, b*) is

    f(W, b) - f* <= sum_v r_v KL(q_v || p_v) + ||X'(r q - T) + l2 W||^2 / (2 l2) + ||s||_1 * max_k |b_k - b*_k|

for logsumexp(z) >= <q, z> - sum q log q, with KL(q || softmax(z)) the difference: put into the objective and minimised
over W, that bounds f* from below (Fenchel duality; Yu, Huang and Lin 2011, section 2, DOI 10.1007/s10994-010-5221-8).
q = p gives ||g_W||^2 / (2 l2), the bound by strong convexity (Nesterov, Lectures on Convex Optimization, 2018, section
2.1.3, DOI 10.1007/978-3-319-91578-4), which charges all of the gradient as if only the penalty held it; a better q
(`probes.dual_point`) takes from the gradient what the frames hold, at the price of a far smaller divergence.

The intercept is first solved for, which makes s rounding noise; what is left of it is charged with a bound on the
distance to b*. Classes only compete, so both intercepts may be shifted to range around zero, and in half ranges
|b_k - b*_k| <= (range(b) + range(b*)) / 2. At the optimum r.p_k = pi_k, the share of class k, and the ratio of two
classes' probabilities differs between codes by no more than the spread of their logits, hence
range(b*) <= log(max pi / min pi) + sqrt(2) max_v ||x_v|| ||W*||, and ||W*||^2 <= 2 f / l2 because f >= f*.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

from probes.objective import LogisticObjective, cross_entropy, softmax

Array = NDArray[np.float64]
_MAX_NEWTON_STEPS = 50


@dataclass(frozen=True)
class Certificate:
    """The intercept that is best for the given W, the objective there and a bound on its distance to the optimum.

    Attributes
    ----------
    intercept : float64 array of shape (n_classes,)
        For the rows as given.
    objective : float
    gap_bound : float
        Proved bound on objective - f*, absolute.
    """

    intercept: Array
    objective: float
    gap_bound: float


def certify(objective: LogisticObjective, coef: Array, intercept: Array, dual: Array | None = None) -> Certificate:
    """Solve for the intercept and bound the gap.

    Parameters
    ----------
    objective : LogisticObjective
    coef : float64 array of shape (n_classes, dim)
    intercept : float64 array of shape (n_classes,), a first guess
    dual : float64 array of shape (n_codes, n_classes) or None
        Rows of probabilities, see `probes.dual_point`. Any are right; good ones make the bound sharp.
    """
    with np.errstate(all="ignore"):
        # The free intercept absorbs a shift of the rows exactly, so the problem is as well that of the centred ones;
        # far from centred, what rounding leaves of g_b would come back in g_W times the rows' mean.
        mean = objective.targets.sum(axis=1) @ objective.codewords
        centred = replace(objective, codewords=objective.codewords - mean)
        shift = coef @ mean
        scores = centred.codewords @ coef.T
        intercept = solve_intercept(scores, centred.targets, intercept + shift)
        probabilities, log_sum_exp = softmax(scores + intercept)
        value = cross_entropy(scores + intercept, log_sum_exp, centred.targets)
        value += 0.5 * centred.l2_strength * float(np.vdot(coef, coef))
        bound = _bound(centred, coef, intercept, value, probabilities, probabilities)
        if dual is not None:
            bound = float(np.fmin(bound, _bound(centred, coef, intercept, value, probabilities, dual)))
    return Certificate(intercept - shift, value, bound)


def _bound(
    objective: LogisticObjective, coef: Array, intercept: Array, value: float, probabilities: Array, dual: Array
) -> float:
    """Return the bound that the dual point gives; its rows are probabilities to rounding."""
    weights = objective.targets.sum(axis=1, keepdims=True)
    residual = weights * dual - objective.targets
    pulled = residual.T @ objective.codewords + objective.l2_strength * coef
    leftover = float(np.abs(residual.sum(axis=0)).sum())
    bound = float(np.vdot(pulled, pulled)) / (2.0 * objective.l2_strength)
    bound += leftover * _intercept_distance(objective, intercept, value)
    return bound + (0.0 if dual is probabilities else divergence(weights, dual, probabilities))


def solve_intercept(scores: Array, targets: Array, intercept: Array) -> Array:
    """Minimise the loss over the intercept alone, by damped Newton steps.

    Parameters
    ----------
    scores : float64 array of shape (n_codes, n_classes), X W'
    targets : float64 array of shape (n_codes, n_classes)
    intercept : float64 array of shape (n_classes,)
    """
    weights, wanted = targets.sum(axis=1), targets.sum(axis=0)
    value, probabilities = _loss(scores + intercept, targets)
    leftover = np.inf
    for _ in range(_MAX_NEWTON_STEPS):
        gradient = weights @ probabilities - wanted
        before, leftover = leftover, float(np.abs(gradient).sum())
        if not leftover > 1e-16 or (leftover < 1e-10 and leftover > 0.5 * before):
            break  # rounding noise: quadratic convergence has ended
        step = intercept_step(probabilities, weights, gradient)
        for length in 0.5 ** np.arange(30):
            trial = intercept + length * step
            trial_value, trial_probabilities = _loss(scores + trial, targets)
            # Values near the optimum differ by rounding alone, hence the slack.
            if trial_value <= value + 1e-4 * length * float(gradient @ step) + 1e-15 * (1.0 + abs(value)):
                intercept, value, probabilities = trial, trial_value, trial_probabilities
                break
        else:
            break
    return np.asarray(intercept - intercept.mean())


def intercept_step(probabilities: Array, weights: Array, gradient: Array) -> Array:
    """Return the Newton step of the intercept alone, float64 array of shape (n_classes,).

    Parameters
    ----------
    probabilities : float64 array of shape (n_codes, n_classes)
    weights : float64 array of shape (n_codes,)
    gradient : float64 array of shape (n_classes,), over the intercept
    """
    weighted = probabilities * weights[:, None]
    return intercept_step_from(weighted.T @ probabilities, weighted.sum(axis=0), gradient)


def intercept_step_from(products: Array, mass: Array, gradient: Array) -> Array:
    """Return the Newton step of the intercept alone from sums over codes or frames.

    Parameters
    ----------
    products : float64 array of shape (n_classes, n_classes), sum r p p'
    mass : float64 array of shape (n_classes,), sum r p
    gradient : float64 array of shape (n_classes,), over the intercept
    """
    hessian = -products
    diagonal = np.diag(hessian) + mass
    # The Hessian's rows sum to zero (only differences of intercepts matter); adding a constant makes it regular. The
    # scaling by class keeps rare classes, whose curvature may be a millionth of the others', in reach of rounding.
    np.fill_diagonal(hessian, diagonal)
    scale = 1.0 / np.sqrt(np.maximum(diagonal, np.finfo(float).tiny))
    scaled = hessian * scale[:, None] * scale
    null = 1.0 / scale
    null /= np.linalg.norm(null)
    scaled += np.outer(null, null) + 1e-15 * np.eye(len(scaled))
    try:
        step: Array = -scale * np.linalg.solve(scaled, gradient * scale)
    except np.linalg.LinAlgError:
        return -gradient
    return step if float(step @ gradient) < 0 else -gradient


def _loss(logits: Array, targets: Array) -> tuple[float, Array]:
    probabilities, log_sum_exp = softmax(logits)
    return cross_entropy(logits, log_sum_exp, targets), probabilities


def divergence(weights: Array, point: Array, probabilities: Array) -> float:
    """Return sum_v r_v KL(q_v || p_v), r (n_codes, 1); infinite where q has what p has not."""
    return float(weights[:, 0] @ rel_entr(point, probabilities).sum(axis=1))


def _intercept_distance(objective: LogisticObjective, intercept: Array, value: float) -> float:
    largest_norm = float(np.sqrt(np.einsum("vd,vd->v", objective.codewords, objective.codewords).max()))
    return intercept_distance(objective.targets.sum(axis=0), largest_norm, objective.l2_strength, intercept, value)


def intercept_distance(shares: Array, largest_norm: float, l2_strength: float, intercept: Array, value: float) -> float:
    """Return a bound on max_k |b_k - b*_k| after shifting both intercepts to range around zero.

    Parameters
    ----------
    shares : float64 array of shape (n_classes,)
        Weight of each class; they sum to one.
    largest_norm : float
        Of any row.
    l2_strength : float
    intercept : float64 array of shape (n_classes,)
    value : float
        f at the point that has this intercept.
    """
    largest_coef = float(np.sqrt(2.0 * max(value, 0.0) / l2_strength))
    range_optimal = float(np.log(shares.max() / shares.min())) + np.sqrt(2.0) * largest_norm * largest_coef
    return float(0.5 * (np.ptp(intercept) + range_optimal))
