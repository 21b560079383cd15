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
from featstore.codecs.base import Checkpoint, CodecFamily, Precision, WeightsKind
from featstore.codecs.signal import crops_to_fit, require_mono, require_n_frames
from featstore.errors import WeightsError
from featstore.json_file import NotJsonError, read_json_object
from featstore.safe_text import first_line, printable, shown
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
MAX_CONFIG_BYTES = 2**20
# Several times the released model's numbers. A network is built before its weights are compared, so a
# configuration alone must not be able to fill the memory.
_HIGHEST = {
    "n_filters": 1024,
    "strides": 64,
    "dimension": 16_384,
    "semantic_dimension": 16_384,
    "dilation_base": 16,
    "residual_kernel_size": 63,
    "n_residual_layers": 8,
    "lstm_layers": 8,
    "sample_rate": 48_000,
    "codebook_size": 65_536,  # codes are uint16
    "n_q": 64,
}
_MOST_STRIDES = 8
_LONGEST_PADDING = 4096  # of the residual layers, whose dilation grows as a power
MAX_PARAMETERS = 2**28  # 1 GiB; the released model has 120 million


class SpeechTokenizer:
    """A loaded SpeechTokenizer model (see `featstore.codecs.base.Codec`).

    Attributes
    ----------
    model : speechtokenizer.SpeechTokenizer
        In evaluation mode.
    """

    name = NAME
    mixes_lengths = False
    precision: Precision = "float32"

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
        return self._encode([samples])[0][0]

    def encode_with_latents(self, samples: NDArray[np.float32]) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
        """Return the codes, and what entered the quantiser: float32 of shape (n_frames, dim), 1024 as released."""
        (codes,), latents = self._encode([samples])
        return codes, np.ascontiguousarray(latents[0].T.cpu().numpy())

    def encode_batch(self, samples: Sequence[NDArray[np.float32]]) -> list[NDArray[np.uint16]]:
        """Return the codes of each; all have equally many samples, so that none is padded."""
        return self._encode(samples)[0]

    def _encode(self, samples: Sequence[NDArray[np.float32]]) -> "tuple[list[NDArray[np.uint16]], torch.Tensor]":
        """Return the codes of each, and the encoder's output: (n_utterances, dim, n_frames) on the model's device.

        The two steps of the library's own ``encode``, which keeps the second from its caller.
        """
        samples = [require_mono(item, NAME) for item in samples]
        n_samples = samples[0].size
        assert all(item.size == n_samples for item in samples), f"{NAME} was given a batch of different lengths"
        codes, latents = torch_support.codes_and_latents(
            self.model.encoder, self.model.quantizer.encode, samples, n_samples, self._device, self.precision
        )
        require_n_frames(codes[:, 0], n_samples, self.hop_samples, NAME)
        return [np.ascontiguousarray(codes[:, row]) for row in range(len(samples))], latents


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
    except Exception as error:  # the library checks nothing: whatever its layers raise
        where, reason = printable(checkpoint.config_path), first_line(error)
        raise WeightsError(f"{where}: describes no network that can be built ({reason})") from error
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
        When the file is missing, is no JSON object, an entry is missing, of another kind or out of range, or the
        network would have more than `MAX_PARAMETERS` parameters.
    """
    where = printable(path)
    try:
        config = read_json_object(path, MAX_CONFIG_BYTES)
    except NotJsonError as error:
        raise WeightsError(f"{where}: expected {NAME}'s config.json, found {error}; use the authors' file") from error
    missing = [name for name in RELEASED_CONFIG if name not in config]
    if missing:
        raise WeightsError(f"{where}: expected {NAME}'s config.json, found one without {', '.join(missing)}")
    for name, released in RELEASED_CONFIG.items():
        if not _is_like(config[name], released, lowest=0 if name in _ENTRIES_FROM_ZERO else 1):
            raise WeightsError(f"{where}: {name} is {shown(config[name])}, expected something like {released!r}")
        highest = _HIGHEST.get(name)
        if highest is not None and max(_numbers(config[name])) > highest:
            raise WeightsError(f"{where}: {name} is {shown(config[name])}, expected at most {highest}")
    problem = _too_large(config)
    if problem is not None:
        raise WeightsError(f"{where}: {problem}; use the authors' file")
    return config


def _numbers(value: Any) -> list[int]:
    return value if isinstance(value, list) else [value]


def _too_large(config: dict[str, Any]) -> str | None:
    """Say what is too large of a network whose numbers are each in range."""
    if len(config["strides"]) > _MOST_STRIDES:
        return f"strides has {len(config['strides'])} numbers, expected at most {_MOST_STRIDES}"
    if hop_of(config) > config["sample_rate"]:
        return f"the strides multiply to {hop_of(config)} samples, expected at most a second's {config['sample_rate']}"
    dilation = config["dilation_base"] ** max(config["n_residual_layers"] - 1, 0)
    if dilation * config["residual_kernel_size"] > _LONGEST_PADDING:
        return f"the residual layers reach over {dilation * config['residual_kernel_size']} samples of their input"
    n_parameters = n_parameters_of(config)
    if n_parameters > MAX_PARAMETERS:
        return f"describes a network of {n_parameters} parameters, expected at most {MAX_PARAMETERS}"
    return None


def n_parameters_of(config: dict[str, Any]) -> int:
    """Return about how many numbers the network holds: its convolutions, LSTMs and codebooks, without biases."""
    width, n_convolved = config["n_filters"], 0
    for stride in reversed(config["strides"]):
        n_residual = width * width // 2 * (config["residual_kernel_size"] + 1) + width * width
        n_convolved += config["n_residual_layers"] * n_residual + 2 * width * width * 2 * stride
        width *= 2
    n_directions = 2 if config["bidirectional"] else 1
    n_ends = 7 * width * n_directions * config["dimension"]
    n_recurrent = config["lstm_layers"] * 8 * width * width
    n_codebooks = 2 * config["n_q"] * config["codebook_size"] * config["dimension"]  # with their running means
    n_encoder = n_convolved + n_ends + n_recurrent * n_directions * (1.5 if config["bidirectional"] else 1)
    n_decoder = n_convolved + n_ends + n_recurrent
    return int(n_encoder + n_decoder) + n_codebooks + config["dimension"] * config["semantic_dimension"]


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
    has_latents=True,
)
