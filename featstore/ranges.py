"""Numbers that point into a table: a wrong one would end in an IndexError, or in another row without a word."""

from typing import Any

from numpy.typing import NDArray

from featstore.errors import StoreError
from featstore.frames import Frames


def check_codes(frames: Frames, codes: NDArray[Any]) -> None:
    """Raise StoreError when a code is none of the codebook's."""
    _check_below(frames, "", "codes", codes, frames.n_codewords)


def check_phonemes(frames: Frames, phoneme: NDArray[Any], n_phonemes: int) -> None:
    """Raise StoreError when a phoneme is none of the vocabulary's."""
    _check_below(frames, "/labels/phoneme", "values", phoneme, n_phonemes)


def _check_below(frames: Frames, path: str, what: str, values: NDArray[Any], n: int) -> None:
    if values.size and values.max() >= n:
        raise StoreError(
            f"{frames.store.path}:/codecs/{frames.name}{path}: expected {what} below {n}, found {values.max()}; the "
            "file is damaged, build it again"
        )
