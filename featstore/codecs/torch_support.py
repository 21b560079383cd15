"""What the codecs that run on PyTorch share: device, exact float32, seeded construction, codebooks.

Imported by the modules of those codecs only; it imports torch inside its functions, as they do.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore.codecs.kmeans import residual_kmeans
from featstore.errors import WeightsError

if TYPE_CHECKING:
    import torch

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
