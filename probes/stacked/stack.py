"""Several layers as one feature row, kept as one table a layer: what the frames' rows are made of.

With E_l the codebook of layer l and c_li the code of frame i in it,

    cumulative    x_i = sum_{l <= m} E_l[c_li]                   dim D, what the decoder sees of the first m layers
    concat        x_i = (E_1[c_1i], ..., E_m[c_mi])              dim m D

Standardised, either is again a sum of rows of tables A_l (the mean is taken off layer by layer, the scale is that of
the whole row), so logits are sums of rows of A_l W_l' and gradients are A_l' times sums over the frames of each code.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Representation = Literal["cumulative", "concat"]


@dataclass(frozen=True)
class Stack:
    """The tables of m layers and how they make a row.

    Attributes
    ----------
    tables : float64 array of shape (n_layers, n_codewords, dim of a codeword)
        A_l; float32 where a rough answer will do, and then what comes of them is float32 too.
    representation : {"cumulative", "concat"}
    """

    tables: NDArray[np.floating]
    representation: Representation

    @property
    def n_layers(self) -> int:
        """Number of layers m."""
        return len(self.tables)

    @property
    def n_codewords(self) -> int:
        """Rows of each table."""
        return int(self.tables.shape[1])

    @property
    def dim(self) -> int:
        """Length of a frame's row."""
        n_layers, _, dim = self.tables.shape
        return int(dim if self.representation == "cumulative" else n_layers * dim)

    def part(self, layer: int) -> slice:
        """Return where the row of array layer `layer` (from 0) stands in a frame's row."""
        if self.representation == "cumulative":
            return slice(0, self.dim)
        dim = self.tables.shape[2]
        return slice(layer * dim, (layer + 1) * dim)

    def spread(self, unknown: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the tables A_l U_l one under the other.

        Parameters
        ----------
        unknown : float64 array of shape (dim, n_columns)

        Returns
        -------
        float64 array of shape (n_layers * n_codewords, n_columns)
        """
        return np.concatenate([table @ unknown[self.part(layer)] for layer, table in enumerate(self.tables)])

    def gather(self, sums: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return sum_l A_l' times the sums over the frames of each code: the transpose of `spread`."""
        by_layer = sums.reshape(self.n_layers, self.n_codewords, -1)
        gathered = np.zeros((self.dim, by_layer.shape[2]), dtype=sums.dtype)
        for layer, (table, of_layer) in enumerate(zip(self.tables, by_layer, strict=True)):
            gathered[self.part(layer)] += table.T @ of_layer
        return gathered

    def rows(self, codes: NDArray[np.uint16]) -> NDArray[np.floating]:
        """Return the rows of a block of frames.

        Parameters
        ----------
        codes : uint16 array of shape (n_layers, n_frames)

        Returns
        -------
        float array of shape (n_frames, dim), of the tables' type
        """
        rows = np.zeros((codes.shape[1], self.dim), dtype=self.tables.dtype)
        for layer, (table, of_layer) in enumerate(zip(self.tables, codes, strict=True)):
            rows[:, self.part(layer)] += table[of_layer]
        return rows

    def centred(self, shares: Array) -> tuple["Stack", Array]:
        """Return the stack whose rows have mean zero, and the mean that was taken off.

        Parameters
        ----------
        shares : float64 array of shape (n_layers, n_codewords)
            Share of each code in the frames that the mean is over; each layer's sum to one.

        Returns
        -------
        stack : Stack
        mean : float64 array of shape (dim,)
        """
        means = np.einsum("lv,lvd->ld", shares, self.tables)
        mean = means.sum(axis=0) if self.representation == "cumulative" else means.ravel()
        return Stack(self.tables - means[:, None], self.representation), mean

    def largest_norm(self) -> float:
        """Return a bound on the norm of any frame's row."""
        largest = np.sqrt(np.einsum("lvd,lvd->lv", self.tables, self.tables).max(axis=1))
        return float(largest.sum() if self.representation == "cumulative" else np.sqrt(np.square(largest).sum()))
