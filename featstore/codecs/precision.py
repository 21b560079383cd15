"""Encoding in another precision than float32: where it is possible, and how many codes it changes.

TF32 keeps 10 of 23 mantissa bits of what is multiplied, bfloat16 7. Codes are the data, so a store of either says so,
and tells what share of them would have been others in float32.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from featstore.codecs.base import Codec, Precision, PrecisionCodec
from featstore.codecs.choose import read_sample
from featstore.corpora.base import Utterance
from featstore.errors import DeviceMemoryError, FeatstoreError, StoreError, UtteranceError
from featstore.safe_text import first_line
from featstore.torch_device import torch_device
from featstore.wording import changes_text

MEASURED_S = 60.0  # of audio, to measure the share of changed codes: 4500 frames of EnCodec, 3000 of SpeechTokenizer
_OLDEST = (8, 0)  # compute capability of the first NVIDIA GPUs whose tensor cores take TF32 and bfloat16: Ampere

LOG = logging.getLogger(__name__)


def check_precision(precision: Precision, device: str) -> None:
    """Refuse a precision that a device does not compute in.

    Raises
    ------
    FeatstoreError
    """
    if precision == "float32":
        return
    import torch

    target = torch_device(device)
    if target.type == "cuda":
        found = torch.cuda.get_device_capability(target)
        if found < _OLDEST:
            raise FeatstoreError(
                f"--precision {precision}: expected a GPU of compute capability {_OLDEST[0]}.{_OLDEST[1]} or newer, "
                f"found {torch.cuda.get_device_name(target)} with {found[0]}.{found[1]}; leave --precision out"
            )
    elif precision == "tf32":
        raise FeatstoreError(
            f"--precision tf32: expected --device cuda with a GPU that has TF32, found {device}; leave --precision out"
        )


def set_precision(codecs: Iterable[Codec], precision: Precision) -> None:
    """Have the codecs whose network can compute in `precision` do so.

    Raises
    ------
    StoreError
        When it is not float32 and there is none.
    """
    able = [codec for codec in codecs if isinstance(codec, PrecisionCodec)]
    if precision != "float32" and not able:
        raise StoreError(f"--precision {precision}: no codec of this build has a network; leave --precision out")
    for codec in able:
        codec.precision = precision


def measure_changes(
    codecs: Mapping[str, Codec], utterances: Sequence[Utterance], seed: int, precision: Precision
) -> dict[str, list[float]]:
    """Return the share of codes that are others than in float32, by codec and layer, on a seeded sample.

    Parameters
    ----------
    codecs : mapping of str to Codec
        Left in `precision`; those that have none are not measured.
    utterances : sequence of Utterance
        The full scan, so that all shards of a build measure the same.
    seed : int
    precision : {"tf32", "bf16"}

    Returns
    -------
    dict of str to list of float
        Layer 1 first; from 0 to 1, rounded to 6 decimals.

    Raises
    ------
    FeatstoreError
        When the device turns out not to compute in `precision`, or no utterance can be encoded.
    """
    changes = {}
    for name, codec in codecs.items():
        if not isinstance(codec, PrecisionCodec):
            continue
        differ = []
        for samples in read_sample(utterances, codec.sample_rate_hz, seed, MEASURED_S):
            try:
                codec.precision = "float32"
                exact = codec.encode(samples)
                codec.precision = precision
                differ.append(codec.encode(samples) != exact)
            except (UtteranceError, DeviceMemoryError):
                continue  # the build will say so
            except (RuntimeError, NotImplementedError) as error:
                raise FeatstoreError(
                    f"--precision {precision}: {name} does not run in it here ({first_line(error)}); leave --precision "
                    "out"
                ) from error
            finally:
                codec.precision = precision
        if not differ:
            raise FeatstoreError(f"--precision {precision}: {name} can encode no utterance of the sample to measure it")
        shares = np.concatenate(differ, axis=1).mean(axis=1)
        changes[name] = [round(float(share), 6) for share in shares]
        LOG.info("%s", changes_text(name, precision, changes[name]))
    return changes
