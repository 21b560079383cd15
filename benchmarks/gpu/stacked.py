"""`cumulative` and `concat` probes of phonemes on all frames, 8 layers of EnCodec's shape, to a gap of 1e-5."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.piece import Asked, peak_gb, significant, timed
from benchmarks.scale.codecs import N_LAYERS
from benchmarks.scale.tables import CodecTables
from benchmarks.scale.voices import draw_voices
from probes.problem import FitOptions
from probes.stacked.logistic import fit_stacked_logistic
from probes.stacked.problem import StackedLogisticProblem
from probes.stacked.stack import Representation
from probes.stacked.standardise import standardised_stack

_TOL = 1e-5
_SMALL_FRAMES, _SMALL_LAYERS = 3_000, 2
_BLOCK_FRAMES = 1 << 22


def run(asked: Asked) -> dict[str, Any]:
    """Fit both and return the record."""
    n_frames, n_layers = (_SMALL_FRAMES, _SMALL_LAYERS) if asked.small else (asked.n_frames, N_LAYERS)
    tables = CodecTables("encodec", draw_voices(2000, 251, 12.69, seed=0), seed=0)
    with timed(asked) as making:
        codes, y = draw_frames(tables, n_frames, n_layers, torch.device(asked.torch_device))
    rows = []
    for representation in ("cumulative", "concat"):
        rows.append(fit(asked, tables, codes, y, representation))  # type: ignore[arg-type]
        asked.keep({"n_frames": n_frames, "rows": rows})
    return {
        "n_frames": n_frames,
        "n_layers": n_layers,
        "n_classes": int(y.max()) + 1,
        "tol": _TOL,
        "frames": "codes drawn from each layer's distribution given the phoneme, layers independent given it",
        "seconds_making": round(making.seconds, 2),
        "rows": rows,
    }


def fit(
    asked: Asked,
    tables: CodecTables,
    codes: NDArray[np.uint16],
    y: NDArray[np.int16],
    representation: Representation,
) -> dict[str, Any]:
    """Return what is told of one fit; `seconds` includes the way of the codes to the device, not standardising."""
    with timed(asked) as standardising:
        stack, _ = standardised_stack(tables.codebooks, codes, representation)
    problem = StackedLogisticProblem(stack, codes, y, int(y.max()) + 1, "balanced", 1.0)
    peak_gb(asked)
    with timed(asked) as fitting:
        found = fit_stacked_logistic(problem, FitOptions(tol=_TOL), device=asked.device)
    return {
        "representation": representation,
        "dim": stack.dim,
        "outcome": found.outcome,
        "n_iter": found.n_iter,
        "seconds": round(fitting.seconds, 2),
        "seconds_standardising": round(standardising.seconds, 2),
        "objective": found.objective,
        "gap_estimate": significant(None if found.gap_estimate is None else found.gap_estimate / found.objective),
        "gap_bound": significant(None if found.gap_bound is None else found.gap_bound / found.objective),
        "peak_device_gb": peak_gb(asked),
    }


def draw_frames(
    tables: CodecTables, n_frames: int, n_layers: int, device: torch.device
) -> tuple[NDArray[np.uint16], NDArray[np.int16]]:
    """Draw phoneme classes and codes, on the device: uint16 (n_layers, n_frames) and int16 (n_frames,)."""
    generator = torch.Generator(device).manual_seed(0)
    shares = torch.from_numpy(np.cumsum(tables.phoneme_shares)).to(device)
    edges = [torch.from_numpy(tables.code_edges(layer)).to(device) for layer in range(1, n_layers + 1)]
    codes, classes = np.empty((n_layers, n_frames), dtype=np.uint16), np.empty(n_frames, dtype=np.int16)
    for start in range(0, n_frames, _BLOCK_FRAMES):
        n = min(_BLOCK_FRAMES, n_frames - start)

        def uniform(n: int = n) -> torch.Tensor:
            return torch.rand(n, dtype=torch.float64, device=device, generator=generator)

        y = torch.searchsorted(shares, uniform() * shares[-1]).clamp(max=len(shares) - 1)
        classes[start : start + n] = y.cpu().numpy()
        for row, edge in zip(codes, edges, strict=True):
            places = torch.searchsorted(edge.reshape(-1), y + uniform()) - y * edge.shape[1]
            row[start : start + n] = places.clamp(max=edge.shape[1] - 1).cpu().numpy()
    _, classes[:] = np.unique(classes, return_inverse=True)  # a class that no frame has is none
    return codes, classes
