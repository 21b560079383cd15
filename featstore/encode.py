"""Prepared utterances to frames, with every codec of a build: one at a time, or as many together as a device holds."""

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from featstore.batches import Window, make_batches
from featstore.codecs.base import BatchCodec, Codec, LatentCodec
from featstore.corpora.base import Utterance
from featstore.errors import DeviceMemoryError, StoreError, UtteranceError
from featstore.extract import PreparedUtterance
from featstore.header import InputHashes

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class CodecFrames:
    """Frames of one utterance: codes uint16 (n_layers, n), raw phone labels str (n,), F0 in Hz float32 (n,).

    `latents`: the encoder's output before quantisation, float32 (n, dim), where it was asked for.
    """

    codes: NDArray[np.uint16]
    phonemes: NDArray[np.str_]
    f0_hz: NDArray[np.float32]
    latents: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class UtteranceFrames:
    """Everything that is stored of one utterance."""

    utterance: Utterance
    n_samples: int
    sample_rate_hz: int
    inputs: InputHashes
    codecs: Mapping[str, CodecFrames]


class Encoder:
    """Encodes prepared utterances with every codec, and learns how much its device holds.

    Parameters
    ----------
    codecs : mapping of str to Codec
    with_latents : bool
        Keep the encoders' output as well; every codec is then a `LatentCodec`, and utterances go one at a time.
    batch_s : float
        Seconds of audio that go together, for codecs that can; 0 for one utterance at a time.
    """

    def __init__(self, codecs: Mapping[str, Codec], with_latents: bool = False, batch_s: float = 0.0) -> None:
        self._codecs, self._with_latents = codecs, with_latents
        self._most = {name: int(batch_s * codec.sample_rate_hz) for name, codec in codecs.items()}
        self._fitted = dict.fromkeys(codecs, 0)  # samples that went through together, at most
        self._is_stopped = False

    def run(
        self, windows: "Iterable[Window]", is_ahead: bool
    ) -> "Iterator[tuple[Window, Callable[[], list[UtteranceFrames | UtteranceError]]]]":
        """Yield each window, and what waits for the outcomes of its utterances.

        Parameters
        ----------
        windows : iterable of Window
        is_ahead : bool
            Encode in a thread, so that the next window is taken from the workers meanwhile: for a device beside the
            CPU. When the iteration ends early, so does the thread, after the batch under way.
        """
        if not is_ahead:
            yield from ((window, partial(self.encode, _items(window))) for window in windows)
            return
        thread = ThreadPoolExecutor(1)
        pending = None
        try:
            for window in windows:
                future = thread.submit(self.encode, _items(window))
                if pending is not None:
                    yield pending
                pending = window, future.result
            if pending is not None:
                yield pending
        except Exception:  # of the workers
            if pending is not None:
                yield pending  # a shard may be whole with it
            raise
        finally:
            self._is_stopped = True
            thread.shutdown(cancel_futures=True)

    def encode(self, prepared: Sequence[PreparedUtterance]) -> list[UtteranceFrames | UtteranceError]:
        """Return what is stored of each utterance, or why it cannot be encoded.

        Raises
        ------
        StoreError
            When the device has no memory for what it had room for before, or for anything: that is no utterance's
            fault.
        """
        errors = {place: UtteranceError(item.problem) for place, item in enumerate(prepared) if item.problem}
        frames: list[dict[str, CodecFrames]] = [{} for _ in prepared]
        for name, codec in self._codecs.items():
            rate = codec.sample_rate_hz
            samples = {place: item.samples[rate] for place, item in enumerate(prepared) if place not in errors}
            for place, found in self._encoded(name, codec, samples):
                if isinstance(found, UtteranceError):
                    errors[place] = found
                    continue
                codes, latents = found
                labels = prepared[place].labels[name]
                expected = (len(codec.codebooks), len(labels.f0_hz))
                assert codes.shape == expected, (
                    f"{name} gave codes of shape {codes.shape}, its contract says {expected}"
                )
                frames[place][name] = CodecFrames(codes, labels.phonemes, labels.f0_hz, latents)
        return [
            errors[place] if place in errors else _utterance_frames(item, frames[place])
            for place, item in enumerate(prepared)
        ]

    def _encoded(
        self, name: str, codec: Codec, samples: Mapping[int, NDArray[np.float32]]
    ) -> "Iterator[tuple[int, _Found | UtteranceError]]":
        if self._with_latents or not self._most[name] or not isinstance(codec, BatchCodec):
            for place, item in samples.items():
                self._go_on()
                yield place, self._alone(name, codec, item)
            return
        lengths = {place: item.size for place, item in samples.items()}
        left = deque(make_batches(lengths, self._most[name], codec.mixes_lengths))
        while left:
            self._go_on()
            batch = left.popleft()
            n_padded = len(batch) * lengths[batch[-1]]
            if len(batch) > 1 and n_padded > self._most[name]:  # the device turned out to hold less
                half = len(batch) // 2
                left.extendleft((batch[half:], batch[:half]))
                continue
            try:
                found = self._together(name, codec, [samples[place] for place in batch], n_padded)
            except DeviceMemoryError as error:
                self._most[name] = n_padded // 2
                most_s = self._most[name] / codec.sample_rate_hz
                LOG.warning("note: %s: %s; batches have at most %.3g s of audio from now on", name, error, most_s)
                left.appendleft(batch)
            else:
                yield from zip(batch, found, strict=True)

    def _go_on(self) -> None:
        if self._is_stopped:
            raise CancelledError

    def _together(
        self, name: str, codec: BatchCodec, samples: Sequence[NDArray[np.float32]], n_padded: int
    ) -> "Sequence[_Found | UtteranceError]":
        if len(samples) > 1:
            with contextlib.suppress(UtteranceError):  # of one of them: each for itself then
                codes = codec.encode_batch(samples)
                self._fitted[name] = max(self._fitted[name], n_padded)
                return [(found, None) for found in codes]
        return [self._alone(name, codec, item) for item in samples]

    def _alone(self, name: str, codec: Codec, samples: NDArray[np.float32]) -> "_Found | UtteranceError":
        try:
            found = _encode(name, codec, samples, self._with_latents)
        except UtteranceError as error:
            return error
        except DeviceMemoryError as error:
            return self._too_long(name, codec, samples.size, error)
        self._fitted[name] = max(self._fitted[name], samples.size)
        return found

    def _too_long(self, name: str, codec: Codec, n_samples: int, error: DeviceMemoryError) -> UtteranceError:
        """Return that an utterance is too long for the device; raises StoreError when that is not the reason."""
        if not self._fitted[name] and n_samples > codec.sample_rate_hz:
            self._alone(name, codec, np.zeros(codec.sample_rate_hz, np.float32))  # is there room for anything?
        length_s, fitted_s = n_samples / codec.sample_rate_hz, self._fitted[name] / codec.sample_rate_hz
        if n_samples <= max(self._fitted[name], codec.sample_rate_hz):
            before = f", where {fitted_s:.3g} s fitted before" if fitted_s else ""
            raise StoreError(
                f"{name}: {error}, on {length_s:.3g} s of audio{before}: something else fills it; finished shards are "
                "kept: run the same command again when there is room, or with --device cpu"
            ) from error
        reason = UtteranceError(
            f"{name}: {error}, on {length_s:.3g} s of audio; --retry-skipped takes it up, where there is more memory"
        )
        reason.__cause__ = error
        return reason


_Found = tuple[NDArray[np.uint16], NDArray[np.float32] | None]


def _items(window: Window) -> list[PreparedUtterance]:
    return [item for _, item in window]


def _utterance_frames(item: PreparedUtterance, codecs: Mapping[str, CodecFrames]) -> UtteranceFrames:
    return UtteranceFrames(item.utterance, item.n_samples, item.sample_rate_hz, item.inputs, codecs)


def _encode(name: str, codec: Codec, samples: NDArray[np.float32], with_latents: bool) -> _Found:
    if not with_latents:
        return codec.encode(samples), None
    assert isinstance(codec, LatentCodec), f"{name} gives no latents, its family says it does"
    codes, latents = codec.encode_with_latents(samples)
    expected = (codes.shape[1], codec.codebooks.shape[2])
    assert latents.shape == expected, f"{name} gave latents of shape {latents.shape}, its contract says {expected}"
    if not np.isfinite(latents).all():  # no store may hold them, and a whole build would end with that
        raise UtteranceError(f"{name}: expected a finite encoder's output, found NaN or infinity")
    return codes, latents
