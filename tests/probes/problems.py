"""Seeded probe problems of every shape, and the frames they stand for."""

import numpy as np

from probes.problem import LeastSquaresProblem, LogisticProblem


def codebook(rng, n_codes, dim, condition=100.0):
    """Rows with a decaying spectrum in a random basis."""
    scales = np.geomspace(1.0, 1.0 / condition, dim)
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    return (rng.standard_normal((n_codes, dim)) * scales) @ rotation


def logistic_problem(
    seed=0, n_codes=40, dim=6, n_classes=5, n_frames=20_000, condition=10.0, class_weight="balanced", unused=0.1, C=1.0
):
    """A problem whose labels depend on the codes in a partly linear way; every class has a frame."""
    rng = np.random.default_rng(seed)
    X = codebook(rng, n_codes, dim, condition)
    logits = 2.0 * X @ rng.standard_normal((dim, n_classes)) + rng.standard_normal((n_codes, n_classes))
    joint = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    joint *= rng.dirichlet(np.ones(n_codes))[:, None] * (rng.random(n_codes) >= unused)[:, None] + 1e-12
    counts = rng.multinomial(n_frames, (joint / joint.sum()).ravel()).reshape(n_codes, n_classes).astype(float)
    counts[0, counts.sum(axis=0) == 0] = 1.0
    return LogisticProblem(X, counts, class_weight, C)


def least_squares_problem(seed=0, n_codes=40, dim=6, n_frames=5_000, condition=10.0):
    """A problem made from frames, which come with it: (problem, codes, y)."""
    rng = np.random.default_rng(seed)
    X = codebook(rng, n_codes, dim, condition)
    codes = rng.integers(0, n_codes - 2, n_frames)
    y = 120.0 + 30.0 * X[codes] @ rng.standard_normal(dim) + 10.0 * rng.standard_normal(n_frames)
    return moments(X, codes, y), codes, y


def moments(X, codes, y):
    """The least-squares problem of these frames, with their rows."""
    n, sum_y, sum_y2 = (np.bincount(codes, weights, len(X)).astype(float) for weights in (None, y, y**2))
    return LeastSquaresProblem(X, n, sum_y, sum_y2, lambda: in_pieces(X[codes].astype(np.float32), y))


def in_pieces(X, y, n=1500):
    """Rows as a store's loader gives them."""
    return ((X[start : start + n], y[start : start + n]) for start in range(0, len(y), n))


def with_dense_rows(problem):
    """The same problem with one row a frame (codewords rounded to float32 in both, so that they are equal)."""
    X = problem.codewords.astype(np.float32)
    codes, classes = np.nonzero(problem.counts)
    repeats = problem.counts[codes, classes].astype(int)

    def rows():
        return in_pieces(X[np.repeat(codes, repeats)], np.repeat(classes, repeats))

    return LogisticProblem(X.astype(float), problem.counts, problem.class_weight, problem.C, rows)


def permuted_classes(problem, order):
    return LogisticProblem(problem.codewords, problem.counts[:, order], problem.class_weight, problem.C)


def known_optimum(seed=0, n_codes=30, dim=5, n_classes=4, l2_strength=1e-3):
    """A problem whose minimiser is chosen first: T = r p(W, b) + correction that makes the gradient vanish.

    The gradient over W is (r p - T)' X + l2 W; T = r p + D with D' X = l2 W and D' 1 = 0 makes it zero, as long as T
    stays positive.
    """
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n_codes, dim))
    W, b = 0.3 * rng.standard_normal((n_classes, dim)), 0.3 * rng.standard_normal(n_classes)
    W, b = W - W.mean(axis=0), b - b.mean()
    logits = X @ W.T + b
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    r = np.full(n_codes, 1.0 / n_codes)
    augmented = np.hstack([X, np.ones((n_codes, 1))])
    T = r[:, None] * p + np.linalg.pinv(augmented).T @ np.vstack([l2_strength * W.T, np.zeros(n_classes)])
    assert T.min() > 0
    # Unweighted counts that sum to S: l2_strength = 1 / (C S).
    S = 1e6
    problem = LogisticProblem(X, T / T.sum() * S, "none", 1.0 / (l2_strength * S))
    return problem, W, b
