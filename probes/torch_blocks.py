"""Inverses of the Hessian's class blocks on a device of torch, in float64: what preconditions conjugate gradients.

Blocks A' diag(h_k) A + S are scaled to a unit diagonal, factorised by Cholesky, many at once, and inverted: applying
them is then one product a class, where triangular systems would leave a device idle. A block that rounding has spoiled
is replaced by its diagonal. Classes of like curvature share one inverse, as `probes.shared_inverse` tells.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from probes.logit_space import check_inverse, check_pivots, random_signs
from probes.shared_inverse import LARGEST_SCALE

Array = NDArray[np.float64]

_JITTER = 1e-13  # of blocks of unit diagonal
_PIECE_BYTES = 1 << 30  # of blocks that are factorised at once
_TINY = float(np.finfo(np.float64).tiny)


class ClassBlocks:
    """One inverse a class.

    Parameters
    ----------
    features : float64 tensor of shape (n_codes, size), or None for the identity
    penalty : float64 tensor of shape (n_codes, n_codes), or (size, 1) of a diagonal where there are features
    """

    def __init__(self, features: torch.Tensor | None, penalty: torch.Tensor) -> None:
        self._features, self._penalty = features, penalty
        self._inverses = torch.empty(0)

    def refresh(self, curvature: torch.Tensor) -> None:
        """Invert the blocks of these curvatures, float64 (n_codes, n_classes)."""
        by_class, size = curvature.T, self._penalty.shape[0]
        if not len(self._inverses):
            self._inverses = self._penalty.new_empty((len(by_class), size, size))
        piece = max(1, _PIECE_BYTES // (8 * by_class.shape[1] * size))
        for first in range(0, len(by_class), piece):
            _invert(self._blocks(by_class[first : first + piece]), self._inverses[first : first + piece])

    def __call__(self, residual: torch.Tensor) -> torch.Tensor:
        """Return each class's inverse times its column of `residual` (size, n_classes)."""
        return torch.bmm(self._inverses, residual.T.contiguous()[:, :, None])[:, :, 0].T

    def _blocks(self, by_class: torch.Tensor) -> torch.Tensor:
        if self._features is None:
            return self._penalty + torch.diag_embed(by_class)
        blocks = (self._features.T * by_class[:, None, :]) @ self._features
        blocks.diagonal(dim1=1, dim2=2).add_(self._penalty[:, 0])
        return blocks


class SharedBlock:
    """One inverse for all classes, over logits.

    Parameters
    ----------
    penalty : float64 tensor of shape (n_codes, n_codes)
    """

    def __init__(self, penalty: torch.Tensor) -> None:
        self._penalty = penalty
        self._inverse = self._scales = torch.empty(0)

    def refresh(self, curvature: torch.Tensor) -> None:
        """Invert the block of the typical class; scale it to each class's diagonal."""
        typical = curvature.clamp(min=_TINY).log().mean(dim=1, keepdim=True).exp()
        self._inverse = torch.empty_like(self._penalty)
        _invert((self._penalty + torch.diag(typical[:, 0]))[None], self._inverse[None])
        q = self._penalty.diagonal()[:, None]
        scales = ((typical + q) / (curvature + q)).sqrt()
        self._scales = scales.clamp(1.0 / LARGEST_SCALE, LARGEST_SCALE)

    def __call__(self, residual: torch.Tensor) -> torch.Tensor:
        """Return each class's inverse times its column of `residual` (n_codes, n_classes)."""
        return self._scales * (self._inverse @ (self._scales * residual))


def centred_inverse(codewords: Array, device: torch.device) -> Array:
    """Return what `probes.logit_space.centred_inverse` does, made on a device; raises as it does."""
    X = torch.from_numpy(np.ascontiguousarray(codewords)).to(device)
    gram = X @ X.T
    gram += gram.trace() / len(gram)
    factor, failed = torch.linalg.cholesky_ex(gram)
    check_pivots(factor.diagonal().cpu().numpy(), int(failed))
    inverse = torch.cholesky_inverse(factor)
    signs = random_signs(len(gram))
    check_inverse((gram @ (inverse @ torch.from_numpy(signs).to(device))).cpu().numpy(), signs)
    ones_image = inverse.sum(dim=1)
    inverse -= torch.outer(ones_image, ones_image) / ones_image.sum()
    return np.asarray(inverse.cpu().numpy())


def _invert(blocks: torch.Tensor, out: torch.Tensor) -> None:
    """Write the inverses of positive definite `blocks` (n, size, size) into `out`; `blocks` are destroyed."""
    scale: Any = blocks.diagonal(dim1=1, dim2=2).clamp(min=_TINY).rsqrt()
    blocks *= scale[:, :, None]
    blocks *= scale[:, None, :]
    blocks.diagonal(dim1=1, dim2=2).add_(_JITTER)
    factor, failed = torch.linalg.cholesky_ex(blocks)
    factor[failed != 0] = torch.eye(blocks.shape[1], dtype=blocks.dtype, device=blocks.device)
    torch.cholesky_inverse(factor, out=out)
    out *= scale[:, :, None]
    out *= scale[:, None, :]
