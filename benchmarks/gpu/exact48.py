"""All 48 exact probes from tables of true shape, on the device; some of them on the processor too."""

from typing import Any

from benchmarks.gpu.piece import Asked, peak_gb, significant, timed
from benchmarks.scale.codecs import N_LAYERS, SHAPES
from benchmarks.scale.tables import TASKS, CodecTables
from benchmarks.scale.voices import SHAPES as CORPORA
from benchmarks.scale.voices import draw_voices
from probes.backends.base import Problem, fit_with
from probes.backends.registry import backend
from probes.problem import Fit, FitOptions, LogisticProblem

_ON_PROCESSOR = (1, N_LAYERS)  # layers of which classifications are fitted there as well


def run(asked: Asked) -> dict[str, Any]:
    """Fit and return the record: every gap is proved on the processor, in float64."""
    with timed(asked) as making:
        problems = make_problems(asked)
    exact = backend("exact")
    with timed(asked) as warming:  # the device's libraries start at their first use
        first = next(problem for problem in problems.values() if isinstance(problem, LogisticProblem))
        exact.fit_logistic(first, FitOptions(device=asked.device, max_iter=1))
    peak_gb(asked)
    with timed(asked) as whole:
        fits = {key: fit_with(exact, problem, FitOptions(device=asked.device)) for key, problem in problems.items()}
    bounds = [fit.gap_bound / fit.objective for fit in fits.values() if fit.gap_bound is not None]
    told = {
        "n_probes": len(fits),
        "seconds_total": round(whole.seconds, 3),
        "n_converged": sum(fit.outcome == "converged" for fit in fits.values()),
        "max_gap_bound": significant(max(bounds)),
        "n_proved": sum(bound <= 1e-6 for bound in bounds),
        "peak_device_gb": peak_gb(asked),
        "seconds_making": round(making.seconds, 2),
        "seconds_warming": round(warming.seconds, 2),
        "statistics": "drawn directly in the shape of train-clean-100: no store, no counting",
        "least_squares": "on the processor",
        "probes": [row(key, fit) for key, fit in fits.items()],
    }
    asked.keep(told)
    return told | on_processor(problems, fits)


def make_problems(asked: Asked) -> dict[tuple[str, str, int], Problem]:
    """Return the problems by codec, task and layer: 48, or a few where it has to be quick."""
    shape = CORPORA["clean100"]
    n_speakers, n_utterances = (8, 80) if asked.small else (shape.n_speakers, shape.n_utterances)
    voices = draw_voices(n_utterances, n_speakers, shape.mean_duration_s, seed=0)
    problems = {}
    for codec in ["encodec"] if asked.small else SHAPES:
        tables = CodecTables(codec, voices, seed=0)
        for task in TASKS:
            for layer in (N_LAYERS,) if asked.small else range(1, N_LAYERS + 1):
                problems[codec, task, layer] = tables.problem(task, layer)
    return problems


def on_processor(problems: dict[tuple[str, str, int], Problem], fits: dict[Any, Fit]) -> dict[str, Any]:
    """Fit some of the classifications by the processor's solver, with one thread, for the ratio."""
    rows, seconds_here, seconds_there = [], 0.0, 0.0
    for key, problem in problems.items():
        if not isinstance(problem, LogisticProblem) or key[2] not in _ON_PROCESSOR:
            continue
        fit = backend("exact").fit_logistic(problem, FitOptions())
        seconds_here, seconds_there = seconds_here + fit.seconds, seconds_there + fits[key].seconds
        gap = abs(fit.objective - fits[key].objective) / fit.objective
        rows.append(row(key, fit) | {"relative_difference": significant(gap)})
    return {"processor": rows, "ratio_to_processor": significant(seconds_here / seconds_there)}


def row(key: tuple[str, str, int], fit: Fit) -> dict[str, Any]:
    """Return what is told of a fit."""
    codec, task, layer = key
    return {
        "codec": codec,
        "task": task,
        "layer": layer,
        "outcome": fit.outcome,
        "n_iter": fit.n_iter,
        "seconds": round(fit.seconds, 4),
        "gap_bound": significant(None if fit.gap_bound is None else fit.gap_bound / fit.objective),
    }
