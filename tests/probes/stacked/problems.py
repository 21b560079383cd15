"""Seeded stacked problems, small enough for dense references."""

import numpy as np

from probes.stacked.problem import StackedLogisticProblem
from probes.stacked.stack import Stack


def codes_and_labels(rng, n_frames, n_layers, n_codewords, n_classes):
    """Codes that share a latent with the labels, so that layers are correlated; every class has a frame."""
    latent = rng.integers(0, n_codewords, n_frames)
    noise = rng.integers(0, n_codewords, (n_layers, n_frames))
    told = rng.random((n_layers, n_frames)) < 0.6
    codes = np.where(told, (latent + 3 * np.arange(n_layers)[:, None]) % n_codewords, noise).astype(np.uint16)
    y = np.where(rng.random(n_frames) < 0.7, latent % n_classes, rng.integers(0, n_classes, n_frames) ** 2 % n_classes)
    y[:n_classes] = np.arange(n_classes)
    return codes, y


def stacked_problem(
    seed=0,
    representation="concat",
    n_frames=600,
    n_layers=3,
    n_codewords=12,
    dim=4,
    n_classes=5,
    class_weight="balanced",
    C=1.0,
    offset=0.3,
):
    rng = np.random.default_rng(seed)
    codes, y = codes_and_labels(rng, n_frames, n_layers, n_codewords, n_classes)
    scales = np.geomspace(1.0, 0.2, dim)
    tables = rng.standard_normal((n_layers, n_codewords, dim)) * scales + offset
    return StackedLogisticProblem(Stack(tables, representation), codes, y, n_classes, class_weight, C)


def rows_of(problem):
    """All rows, by the definition: codewords added or side by side."""
    each = [table[row] for table, row in zip(problem.stack.tables, problem.codes, strict=True)]
    return sum(each) if problem.stack.representation == "cumulative" else np.hstack(each)


def objective(problem, coef, intercept):
    """f by its definition, from all rows."""
    logits = rows_of(problem) @ coef.T + intercept
    top = logits.max(axis=1)
    loss = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top - logits[np.arange(problem.n_frames), problem.y]
    counts = np.bincount(problem.y, minlength=problem.n_classes)
    weight = len(problem.y) / (len(counts) * counts) if problem.class_weight == "balanced" else np.ones(len(counts))
    r = weight[problem.y]
    return r @ loss / r.sum() + 0.5 / (problem.C * r.sum()) * np.sum(coef**2)


def rare_problem(representation, n_rare, n_codes, size, n_frames=270_000, n_classes=4, seed=0):
    """`n_codes` classes of `n_rare` frames each, on codes of their own that are all their layers tell of them.

    These frames lie where a sample of 2^18 evenly spaced ones passes them over.
    """
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, size - n_codes, (2, n_frames)).astype(np.uint16)
    y = (codes[0] + (rng.random(n_frames) < 0.3) * rng.integers(0, n_classes, n_frames)) % n_classes
    passed_over = np.setdiff1d(np.arange(n_frames), np.linspace(0, n_frames - 1, 1 << 18).astype(int))
    rare = rng.choice(passed_over, n_rare * n_codes, replace=False)
    which = np.arange(len(rare)) % n_codes
    codes[:, rare], y[rare] = size - 1 - which, n_classes + which
    stack = Stack(rng.standard_normal((2, size, size)), representation)
    return StackedLogisticProblem(stack, codes, y.astype(np.int64), n_classes + n_codes)
