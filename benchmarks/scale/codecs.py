"""Two codecs of the true sizes: codebooks with decaying spectra, and codes that tell phoneme, speaker and pitch.

Each layer's code of a frame is drawn from a mixture: with a layer's weights from the distribution of the frame's
phoneme label, of its speaker, of its pitch, or of none of them. Each of those distributions is

    p(v | k)  proportional to  use_v exp(a c tanh(z_v . w_k / c) + b e_vk),

with z_v the standardised codeword and w_k scaled so that z_v . w_k has a spread of about 1: the first term is nearly
what a linear probe could represent of one source alone, the normal noise e_vk what it could not, and the mixture of
sources is not linear either. The weights fall with depth.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from benchmarks.scale.alias import N_CODEWORDS, AliasTables
from benchmarks.scale.speech import SILENT_LABELS, LabelModel

N_LAYERS = 8
CONDITIONS = np.geomspace(1e2, 1e5, N_LAYERS)
_SHRINK = 0.8  # of codeword norms from layer to layer
_NORM_SPREAD = 0.4  # standard deviation of log row scales
_UNUSED_SHARE, _RARE_SHARE = 0.05, 0.04
_USE_SPREAD = 0.6  # standard deviation of the log use of ordinary codes
_TILTS = ((2.2, 1.3), (1.6, 1.0), (2.0, 0.5))  # a and b above: of phonemes, speakers and pitch
_CEILING = 2.5  # c above
_N_PITCH_BINS = 24
_PITCH_RANGE_HZ = (60.0, 400.0)


@dataclass(frozen=True)
class CodecShape:
    """A codec's clock, size and how much its layers tell.

    Attributes
    ----------
    first, second : tuples of float
        Mixture weights (phoneme, speaker, pitch) at layers 1 and 2.
    fall : tuple of float
        By which factor each falls from every layer to the next, from layer 2 on.
    """

    sample_rate_hz: int
    hop_samples: int
    dim: int
    first: tuple[float, float, float]
    second: tuple[float, float, float]
    fall: tuple[float, float, float]


SHAPES = {
    "encodec": CodecShape(24_000, 320, 128, (0.50, 0.22, 0.16), (0.34, 0.19, 0.11), (0.74, 0.88, 0.72)),
    # distilled from a phonetic teacher: layer 1 tells phonemes and little else
    "speechtokenizer": CodecShape(16_000, 320, 1024, (0.82, 0.04, 0.03), (0.28, 0.28, 0.17), (0.76, 0.88, 0.74)),
}


def mixture_weights(shape: CodecShape) -> NDArray[np.float64]:
    """Return the weights of phoneme, speaker and pitch by layer; float64 (8, 3). What is missing to 1 tells nothing."""
    later = np.array(shape.second) * np.array(shape.fall) ** np.arange(N_LAYERS - 1)[:, None]
    return np.vstack([shape.first, later])


def make_codebooks(rng: np.random.Generator, dim: int) -> NDArray[np.float32]:
    """Return codebooks of unequal row norms whose singular values fall geometrically; float32 (8, 1024, dim).

    Layer l has condition ``CONDITIONS[l - 1]``. All layers share their principal axes, as they quantise one space.
    """
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    codebooks = np.empty((N_LAYERS, N_CODEWORDS, dim), dtype=np.float32)
    for layer, condition in enumerate(CONDITIONS):
        scale = np.exp(_NORM_SPREAD * rng.standard_normal((N_CODEWORDS, 1)))
        # leading columns of Q are long where the rows' scales are large: unequal norms at an exact spectrum
        basis = np.linalg.qr(scale * rng.standard_normal((N_CODEWORDS, dim)))[0]
        spectrum = np.geomspace(1, 1 / condition, dim)
        spectrum *= _SHRINK**layer * np.sqrt(N_CODEWORDS * dim / (spectrum**2).sum())
        codebooks[layer] = (basis * spectrum) @ rotation
    return codebooks


def condition_numbers(codebooks: NDArray[np.float32]) -> list[float]:
    """Return the largest singular value over the smallest, by layer."""
    values = [np.linalg.svd(codebook.astype(np.float64), compute_uv=False) for codebook in codebooks]
    return [float(value[0] / value[-1]) for value in values]


class ScaleCodec:
    """A codec that draws codes for labelled frames.

    Parameters
    ----------
    shape : CodecShape
    labels : LabelModel
    is_female : bool array of shape (n_speakers,)
    seed : sequence of int
    """

    def __init__(self, shape: CodecShape, labels: LabelModel, is_female: NDArray[np.bool_], seed: list[int]) -> None:
        rng = np.random.default_rng(seed)
        self.shape = shape
        self.codebooks = make_codebooks(rng, shape.dim)
        sources = [
            _phoneme_directions(rng, labels, shape.dim),
            _speaker_directions(rng, is_female, shape.dim),
            _pitch_directions(rng, shape.dim),
        ]
        self._first_rows = np.cumsum([0, *map(len, sources)]).astype(np.int32)  # the last is the row of no source
        self._limits = (np.cumsum(mixture_weights(shape), axis=1) * (1 << 32)).astype(np.uint32)
        directions = np.concatenate(sources)
        tilts = np.repeat(_TILTS, [len(source) for source in sources], axis=0)
        self._distributions = [_distributions(rng, codebook, directions, tilts) for codebook in self.codebooks]

    @cached_property
    def _tables(self) -> list[AliasTables]:
        return [AliasTables(probability) for probability in self._distributions]

    def distributions(self, layer: int) -> list[NDArray[np.float64]]:
        """Return p(v | source) at a layer, counted from 1, by phoneme label, speaker, pitch step and of no source."""
        probability = self._distributions[layer - 1]
        probability = probability / probability.sum(axis=1, keepdims=True)
        return np.split(probability, self._first_rows[1:])

    def n_frames(self, n_samples: NDArray[np.int64], sample_rate_hz: int) -> NDArray[np.int64]:
        """Return how many frames utterances of this many samples have; int64 of the same shape."""
        return -(-n_samples * self.shape.sample_rate_hz // (sample_rate_hz * self.shape.hop_samples))

    def draw(
        self,
        rng: np.random.Generator,
        phoneme: NDArray[np.uint16],
        speaker: NDArray[np.int64],
        f0_hz: NDArray[np.float32],
    ) -> NDArray[np.uint16]:
        """Draw codes for frames.

        Parameters
        ----------
        rng : numpy.random.Generator
        phoneme : uint16 array of shape (n,)
        speaker : int64 array of shape (n,)
        f0_hz : float32 array of shape (n,)
            NaN where unvoiced.

        Returns
        -------
        uint16 array of shape (8, n)
        """
        labels = (phoneme, speaker, pitch_bin(f0_hz))
        own = [row + first for row, first in zip(labels, self._first_rows[:-1], strict=True)]
        by_phoneme, by_speaker, by_pitch = (row.astype(np.int32) for row in own)
        codes = np.empty((N_LAYERS, len(phoneme)), dtype=np.uint16)
        for layer, (tables, limits) in enumerate(zip(self._tables, self._limits, strict=True)):
            chance = rng.integers(0, 1 << 32, len(phoneme), dtype=np.uint32)
            rows = np.where(chance < limits[2], by_pitch, self._first_rows[-1])
            rows = np.where(chance < limits[1], by_speaker, rows)
            codes[layer] = tables.draw(rng, np.where(chance < limits[0], by_phoneme, rows))
        return codes


def pitch_bin(f0_hz: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return which of 24 equal steps of log F0 a frame is in, 24 where unvoiced; int32 (n,)."""
    low, high = np.log(_PITCH_RANGE_HZ)
    place = (np.log(f0_hz) - np.float32(low)) * np.float32(_N_PITCH_BINS / (high - low))
    return np.where(np.isnan(place), _N_PITCH_BINS, np.clip(place, 0, _N_PITCH_BINS - 1)).astype(np.int32)


def pitch_of_bin_hz() -> NDArray[np.float64]:
    """Return the middle of each step of F0, float64 (24,), Hz."""
    low, high = np.log(_PITCH_RANGE_HZ)
    return np.asarray(np.exp(low + (np.arange(_N_PITCH_BINS) + 0.5) * (high - low) / _N_PITCH_BINS))


def _phoneme_directions(rng: np.random.Generator, labels: LabelModel, dim: int) -> NDArray[np.float64]:
    """Return w_k of every label: stress marks of one vowel lie close together, and so do kinds of silence."""
    phones = ["sil" if name in SILENT_LABELS else name.rstrip("012") for name in labels.names]
    shared = {phone: rng.standard_normal(dim) for phone in sorted(set(phones))}
    return np.stack([shared[phone] + 0.35 * rng.standard_normal(dim) for phone in phones])


def _speaker_directions(rng: np.random.Generator, is_female: NDArray[np.bool_], dim: int) -> NDArray[np.float64]:
    """Return w_k of every speaker: one direction tells the sexes apart."""
    own = rng.standard_normal((len(is_female), dim))
    return own + 0.7 * np.where(is_female, 1, -1)[:, None] * rng.standard_normal(dim)


def _pitch_directions(rng: np.random.Generator, dim: int) -> NDArray[np.float64]:
    """Return w_k of every step of log F0, which grows along one direction, and of unvoiced frames."""
    height = np.linspace(-1.5, 1.5, _N_PITCH_BINS)[:, None]
    voiced = height * rng.standard_normal(dim) + 0.3 * rng.standard_normal((_N_PITCH_BINS, dim))
    return np.vstack([voiced, rng.standard_normal((1, dim))])


def _distributions(
    rng: np.random.Generator,
    codebook: NDArray[np.float32],
    directions: NDArray[np.float64],
    tilts: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return p(v | k) for every direction w_k and, last, the plain use of codes; float64 (n_directions + 1, 1024)."""
    use = _draw_use(rng)
    X = ((codebook - codebook.mean(axis=0)) / codebook.std(axis=0)).astype(np.float64)
    # spread 1 over the codes, but for the direction's own length: a pitch near the middle tells less than a high one
    length = np.linalg.norm(directions, axis=1, keepdims=True) / np.sqrt(codebook.shape[1])
    linear = directions @ X.T
    linear *= length / linear.std(axis=1, keepdims=True)
    linear = _CEILING * np.tanh(linear / _CEILING)  # else the few codewords of great norm would take nearly all frames
    tilt = tilts[:, :1] * linear + tilts[:, 1:] * rng.standard_normal(linear.shape)
    probability = use * np.exp(tilt - tilt.max(axis=1, keepdims=True))
    return np.vstack([probability, use])


def _draw_use(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return how often codes are used: most log-normally, some hardly ever, some never; float64 (1024,)."""
    use = np.exp(_USE_SPREAD * rng.standard_normal(N_CODEWORDS))
    n_unused, n_rare = round(_UNUSED_SHARE * N_CODEWORDS), round(_RARE_SHARE * N_CODEWORDS)
    odd = rng.permutation(N_CODEWORDS)[: n_unused + n_rare]
    use[odd[:n_unused]] = 0
    use[odd[n_unused:]] *= 10.0 ** rng.uniform(-4.5, -1.5, n_rare)
    return use
