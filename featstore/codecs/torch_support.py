"""What the codecs that run on PyTorch share: device, precision, memory, seeded construction, codebooks.

Imported by the modules of those codecs only; it imports torch inside its functions, as they do.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from featstore.codecs.base import Precision
from featstore.codecs.kmeans import residual_kmeans
from featstore.errors import DeviceMemoryError, StoreError, UtteranceError, WeightsError
from featstore.safe_text import first_line
from featstore.torch_device import is_of_device, is_out_of_memory

if TYPE_CHECKING:
    import torch

_T = TypeVar("_T")
# Frames on which an untrained codec's codebooks are fitted: four a codeword, 55 s of EnCodec's or 82 s of
# SpeechTokenizer's audio. More would cost the encoders' time, to make a control that is near chance slightly finer.
N_FIT_FRAMES = 4096


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Compute without gradients, in full float32 and with repeatable kernels, and restore the settings afterwards.

    TF32 keeps 10 of 23 mantissa bits: enough to flip codes, so that a store would depend on the kind of GPU.
    """
    import torch

    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = False, False, False, True
    try:
        with torch.inference_mode():
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before


@contextlib.contextmanager
def lower_precision(precision: Precision, device: "torch.device") -> Iterator[None]:
    """Let products be computed in TF32 or bfloat16, where that is asked for; sums stay in float32.

    bfloat16 is torch's autocast, which runs cuDNN's LSTM in float16: finer, but it overflows above 65504.
    """
    import torch

    if precision == "bf16":
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    if precision == "tf32":
        matmul.allow_tf32, cudnn.allow_tf32 = True, True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def batch_on(device: "torch.device", samples: Sequence[NDArray[np.float32]], n_samples: int) -> "torch.Tensor":
    """Return utterances padded with zeros, a float32 tensor of shape (n_utterances, 1, n_samples) on `device`.

    Memory that a CUDA device may read directly is filled, so that the transfer goes on while the host does.
    """
    import torch

    batch = torch.zeros(len(samples), 1, n_samples, pin_memory=device.type == "cuda")
    for row, item in zip(batch.numpy(), samples, strict=True):
        row[0, : item.size] = item
    return batch.to(device, non_blocking=True)


def codes_and_latents(
    encoder: "Callable[[torch.Tensor], torch.Tensor]",
    quantise: "Callable[[torch.Tensor], torch.Tensor]",
    samples: Sequence[NDArray[np.float32]],
    n_samples: int,
    device: "torch.device",
    precision: Precision,
) -> "tuple[NDArray[np.uint16], torch.Tensor]":
    """Encode utterances that are padded to one length.

    Parameters
    ----------
    encoder : callable
        From a tensor of shape (n_utterances, 1, n_samples) to latents of shape (n_utterances, dim, n_frames).
    quantise : callable
        From float32 latents to codes of shape (n_layers, n_utterances, n_frames).
    samples : sequence of float32 arrays of shape (n,)
    n_samples : int
        To which they are padded with zeros.
    device : torch.device
    precision : {"float32", "tf32", "bf16"}
        Of the encoder.

    Returns
    -------
    codes : uint16 array of shape (n_layers, n_utterances, n_frames)
    latents : float32 tensor of shape (n_utterances, dim, n_frames), on the device

    Raises
    ------
    DeviceMemoryError
    UtteranceError
        When the latents overflow in bf16.
    """

    def compute() -> "tuple[NDArray[np.uint16], torch.Tensor]":
        with exact_float32():
            with lower_precision(precision, device):
                latents = encoder(batch_on(device, samples, n_samples)).float()
            if precision == "bf16" and not bool(latents.isfinite().all()):
                raise UtteranceError("the encoder's output overflows in bf16; leave --precision out")
            return quantise(latents).cpu().numpy().astype(np.uint16), latents

    return _within_memory(compute, device)


def _within_memory(compute: Callable[[], _T], device: "torch.device") -> _T:
    """Return what `compute` does; too little memory is one error of ours, and leaves nothing of the attempt behind."""
    try:
        return compute()
    except RuntimeError as error:
        reason = first_line(error)
        if not is_out_of_memory(error):
            if not is_of_device(error):
                raise
            raise StoreError(
                f"{device} failed ({reason}); finished shards are kept: run the same command again, or on another "
                "--device"
            ) from error
    # Not within `except`, where the traceback still holds the tensors.
    _free_cached(device)
    raise DeviceMemoryError(f"{device}: too little memory ({reason})")


def _free_cached(device: "torch.device") -> None:
    """Give back what torch keeps for later: in pieces of the wrong size it is of no use to the next attempt."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def build_quietly(build: Callable[[], Any]) -> Any:
    """Call `build` with warnings off: the codec libraries use old torch names, of which a user can change nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build()


def build_seeded(build: Callable[[], Any], seed: int) -> Any:
    """Build a network with torch's CPU generator seeded, leaving the global generators as they were."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_quietly(build)


def freeze(model: "torch.nn.Module", device: "torch.device") -> None:
    """Bring a model to `device`, in evaluation mode and without gradients: training mode would move the codebooks."""
    model.to(device)
    model.eval()
    model.requires_grad_(False)


def codebooks_of(layers: Iterable[Any], source: object) -> NDArray[np.float32]:
    """Return the codebooks of EnCodec-style quantiser layers, float32 of shape (n_layers, n_codewords, dim).

    Raises
    ------
    WeightsError
        When a codebook was never set (all zero, as in a network that was not trained) or is not finite.
    """
    codebooks: NDArray[np.float32] = np.stack([layer._codebook.embed.cpu().numpy() for layer in layers])
    if not np.isfinite(codebooks).all():
        raise WeightsError(f"{source}: codebooks hold NaN or infinity; the file is damaged, use the authors' file")
    unset = [layer for layer, codebook in enumerate(codebooks, start=1) if not codebook.any()]
    if unset:
        raise WeightsError(
            f"{source}: the codebook of layer {unset[0]} is all zero, so the network was never trained; "
            "use trained weights, or ask for untrained ones, which get k-means codebooks"
        )
    return codebooks


def fit_codebooks(model: Any, layers: Sequence[Any], crops: Iterable[NDArray[np.float32]], seed: int) -> None:
    """Set EnCodec-style codebooks by residual k-means on what the model's encoder makes of `crops`.

    The quantisers search in the encoder's own output space (their projections are identities), so that is where
    k-means runs. `inited` is set, as after the libraries' own initialisation; `cluster_size` stays 0, since it only
    matters to further training.
    """
    import torch

    model.eval()
    with exact_float32():
        features = [model.encoder(torch.from_numpy(crop)[None, None])[0].T.numpy() for crop in crops]
    size, _ = layers[0]._codebook.embed.shape
    codebooks = residual_kmeans(np.concatenate(features), len(layers), size, seed)
    for layer, codebook in zip(layers, codebooks, strict=True):
        for buffer in (layer._codebook.embed, layer._codebook.embed_avg):
            buffer.copy_(torch.from_numpy(codebook))
        layer._codebook.inited.fill_(1)
