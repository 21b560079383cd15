"""t-SNE of codewords by cuML: seconds and, where cuML tells it, the divergence that it reached."""

from typing import Any

import numpy as np

from benchmarks.gpu.piece import Asked, SkippedPieceError, significant, timed
from benchmarks.scale.codecs import N_LAYERS, SHAPES, make_codebooks


def run(asked: Asked) -> dict[str, Any]:
    """Embed the codewords of all layers of both shapes and return the record."""
    if not asked.is_gpu:
        raise SkippedPieceError("cuML needs a GPU")
    from cuml.manifold import TSNE

    rows = []
    for name, shape in SHAPES.items():
        codebooks = make_codebooks(np.random.default_rng(0), shape.dim)
        X = np.ascontiguousarray(codebooks.reshape(-1, shape.dim))
        X = X[: len(X) // N_LAYERS] if asked.small else X
        for _ in range(2):  # kernels are compiled at the first call
            model = TSNE(n_components=2, random_state=0)
            with timed(asked) as clock:
                embedded = np.asarray(model.fit_transform(X))
        divergence = getattr(model, "kl_divergence_", None)
        rows.append(
            {
                "codec": name,
                "n_rows": len(X),
                "dim": shape.dim,
                "seconds": round(clock.seconds, 3),
                "is_finite": bool(np.isfinite(embedded).all()),
                "kl_divergence": None if divergence is None else significant(float(divergence)),
            }
        )
    return {"rows": rows}
