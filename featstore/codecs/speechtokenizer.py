"""SpeechTokenizer (Zhang et al. 2024, arXiv:2308.16692): 8 layers of 1024 entries at 16 kHz, 50 frames a second.

Layer 1 was distilled from HuBERT. Weights are two files, ``SpeechTokenizer.pt`` and ``config.json``. The numbers above
are the released model's; what counts is what the configuration says (sample rate, strides, layers, sizes).
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featstore.atomic import write_text_once
from featstore.codecs import torch_support, weights
from featstore.codecs.base import Checkpoint, CodecFamily, WeightsKind
from featstore.codecs.signal import crops_to_fit, require_mono, require_n_frames
from featstore.errors import WeightsError
from featstore.torch_device import torch_device

if TYPE_CHECKING:
    import torch

NAME = "speechtokenizer"
HUB_ADDRESS = "https://huggingface.co/fnlp/SpeechTokenizer/tree/main/speechtokenizer_hubert_avg"

# The released model's architecture (config.json of speechtokenizer_hubert_avg, without its training settings).
RELEASED_CONFIG: dict[str, Any] = {
    "n_filters": 64,
    "strides": [8, 5, 4, 2],
    "dimension": 1024,
    "semantic_dimension": 768,
    "bidirectional": True,
    "dilation_base": 2,
    "residual_kernel_size": 3,
    "n_residual_layers": 1,
    "lstm_layers": 2,
    "activation": "ELU",
    "sample_rate": 16_000,
    "codebook_size": 1024,
    "n_q": 8,
}
_ENTRIES_FROM_ZERO = ("lstm_layers", "n_residual_layers")  # every other whole number must be at least 1


class SpeechTokenizer:
    """A loaded SpeechTokenizer model (see `featstore.codecs.base.Codec`).

    Attributes
    ----------
    model : speechtokenizer.SpeechTokenizer
        In evaluation mode.
    """

    name = NAME

    def __init__(
        self, model: Any, config: dict[str, Any], device: "torch.device", source: Checkpoint, weights_sha256: str
    ) -> None:
        torch_support.freeze(model, device)
        self.model = model
        self.sample_rate_hz = int(config["sample_rate"])
        self.hop_samples = hop_of(config)
        self.weights: WeightsKind = source.weights
        self.weights_sha256 = weights_sha256
        self.codebooks = torch_support.codebooks_of(model.quantizer.vq.layers, source.path)
        self._device = device

    def encode(self, samples: NDArray[np.float32]) -> NDArray[np.uint16]:
        """Return the codes, uint16 of shape (n_layers, ceil(n_samples / hop_samples)).

        The utterance goes in exactly as it is: the LSTM runs both ways, so padding would change every frame.
        """
        import torch

        samples = require_mono(samples, NAME)
        with torch_support.exact_float32():
            codes = self.model.encode(torch.from_numpy(samples)[None, None].to(self._device))
        return require_n_frames(codes[:, 0].cpu().numpy().astype(np.uint16), samples.size, self.hop_samples, NAME)


def fetch_pretrained() -> Checkpoint:
    """Raise WeightsError: the authors' weights have no download of their own; the message says where they are."""
    raise WeightsError(
        f"{NAME}: download SpeechTokenizer.pt and config.json from {HUB_ADDRESS} and pass them with "
        "--st-ckpt SpeechTokenizer.pt --st-config config.json, or ask for --weights untrained"
    )


def load(checkpoint: Checkpoint, device: str) -> SpeechTokenizer:
    """Load a state dict and its configuration (the authors' files, or two of that format).

    The library's own ``load_from_checkpoint`` would execute what a malicious file says and leave the model in
    training mode, in which one forward pass changes the codebooks.

    Raises
    ------
    WeightsError
        When a file is missing, or is not of this model.
    FeatstoreError
        When the device does not exist.
    """
    if checkpoint.config_path is None:
        raise WeightsError(f"{checkpoint.path}: {NAME} needs its config.json as well; pass it with --st-config FILE")
    target = torch_device(device)
    config = read_config(checkpoint.config_path)
    sha256 = weights.sha256_of(checkpoint.path, checkpoint.config_path)
    state = weights.read_state_dict(checkpoint.path)
    try:
        model = torch_support.build_seeded(lambda: _new_model(config), seed=0)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = weights.first_line(error)
        raise WeightsError(f"{checkpoint.config_path}: describes no network that can be built ({reason})") from error
    weights.fill_model(model, state, checkpoint.path)
    return SpeechTokenizer(model, config, target, checkpoint, sha256)


def make_untrained(
    audio: Sequence[NDArray[np.float32]], seed: int, folder: Path, config: dict[str, Any] | None = None
) -> Checkpoint:
    """Save a seeded network with k-means codebooks as ``speechtokenizer-untrained.pt`` and ``.json`` in `folder`.

    Parameters
    ----------
    audio : sequence of float32 arrays of shape (n_samples,)
        Mono, at the configuration's sample rate.
    seed : int
    folder : Path
    config : dict, optional
        Another architecture than the released model's.
    """
    config = dict(RELEASED_CONFIG if config is None else config)
    model = torch_support.build_seeded(lambda: _new_model(config), seed)
    crops = crops_to_fit(audio, torch_support.N_FIT_FRAMES, hop_of(config), seed)
    torch_support.fit_codebooks(model, list(model.quantizer.vq.layers), crops, seed)
    path, config_path = folder / f"{NAME}-untrained.pt", folder / f"{NAME}-untrained.json"
    write_text_once(config_path, json.dumps(config, indent=2) + "\n")
    weights.save_state_dict(model.state_dict(), path)
    return Checkpoint(path, "untrained", config_path)


def read_config(path: Path) -> dict[str, Any]:
    """Read a ``config.json`` and check the entries that the network is built from; others are kept.

    Raises
    ------
    WeightsError
        When the file is missing, is no JSON object, or an entry is missing or of another kind.
    """
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise WeightsError(f"{path}: configuration cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise WeightsError(f"{path}: expected {NAME}'s config.json, found no JSON ({error})") from error
    if not isinstance(config, dict):
        raise WeightsError(f"{path}: expected {NAME}'s config.json, found a JSON {type(config).__name__}")
    missing = [name for name in RELEASED_CONFIG if name not in config]
    if missing:
        raise WeightsError(f"{path}: expected {NAME}'s config.json, found one without {', '.join(missing)}")
    for name, released in RELEASED_CONFIG.items():
        if not _is_like(config[name], released, lowest=0 if name in _ENTRIES_FROM_ZERO else 1):
            raise WeightsError(f"{path}: {name} is {config[name]!r}, expected something like {released!r}")
    return config


def hop_of(config: dict[str, Any]) -> int:
    """Return the hop in samples, the product of the strides."""
    return math.prod(config["strides"])


def _is_like(value: object, released: object, lowest: int) -> bool:
    if isinstance(released, list):
        return isinstance(value, list) and value != [] and all(_is_like(item, 1, lowest) for item in value)
    if type(value) is not type(released):
        return False
    return not isinstance(value, int) or isinstance(value, bool) or value >= lowest


def _new_model(config: dict[str, Any]) -> Any:
    # Importing the package imports its trainer, which warns about what it uses itself: hence under build_quietly.
    import speechtokenizer

    return speechtokenizer.SpeechTokenizer(config)


FAMILY = CodecFamily(
    name=NAME,
    summary="SpeechTokenizer 16 kHz, layer 1 distilled from HuBERT; weights are two files of the user's",
    sample_rate_hz=RELEASED_CONFIG["sample_rate"],
    hop_samples=hop_of(RELEASED_CONFIG),
    n_layers=RELEASED_CONFIG["n_q"],
    n_codewords=RELEASED_CONFIG["codebook_size"],
    dim=RELEASED_CONFIG["dimension"],
    load=load,
    make_untrained=make_untrained,
    fetch_pretrained=fetch_pretrained,
    has_download=False,
    needs_config=True,
)
