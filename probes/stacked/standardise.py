"""The tables of standardised rows of several layers, from codes alone."""

import numpy as np
from numpy.typing import NDArray

from probes.stacked.cooccurrence import code_sums, squares
from probes.stacked.stack import Representation, Stack
from probes.standardiser import Standardiser


def standardised_stack(
    codebooks: NDArray[np.float32], codes: NDArray[np.uint16], representation: Representation, standardize: bool = True
) -> tuple[Stack, Standardiser]:
    """Return the tables of the standardised rows, and the standardiser of raw rows, over these training frames.

    Parameters
    ----------
    codebooks : float32 array of shape (at least n_layers, n_codewords, dim)
    codes : uint16 array of shape (n_layers, n_frames)
    representation : {"cumulative", "concat"}
    standardize : bool
        False: rows as they are.
    """
    books = codebooks[: len(codes)].astype(np.float64)
    raw = Stack(books, representation)
    if not standardize:
        return raw, Standardiser.identity(raw.dim)
    n = codes.shape[1]
    of_codes = code_sums(codes, books.shape[1])
    if representation == "concat":
        each = [Standardiser.fit(book, count) for book, count in zip(books, of_codes, strict=True)]
        tables = np.stack([standardiser(book) for standardiser, book in zip(each, books, strict=True)])
        mean, scale = (np.concatenate([getattr(one, name) for one in each]) for name in ("mean", "scale"))
        return Stack(tables, representation), Standardiser(mean, scale)
    centred, mean = raw.centred(of_codes / n)
    standardiser = Standardiser.of_moments(mean, squares(centred.tables, codes) / n, n)
    return Stack(centred.tables / standardiser.scale, representation), standardiser
