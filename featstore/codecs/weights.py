"""Weights files: hash, fetch, load without running code from them, save with the same bytes every time."""

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from featstore.atomic import write_once
from featstore.errors import WeightsError

if TYPE_CHECKING:
    import torch

_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 30.0
_TORCH_FILE_BEGINS = (b"PK\x03\x04", b"\x80")  # a ZIP archive; a pickle, as torch wrote before 1.6
_N_NAMED = 3  # differing parameters that an error names; a wrong model differs in hundreds


def sha256_of(*paths: Path) -> str:
    """Return the hex SHA-256 over the bytes of `paths`, one after the other.

    Raises
    ------
    WeightsError
        When a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                for chunk in _chunks(file):
                    digest.update(chunk)
        except OSError as error:
            raise WeightsError(f"{path}: weights file cannot be read ({error.strerror}); check the path") from error
    return digest.hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Raise WeightsError unless the file has the SHA-256 `expected`."""
    found = sha256_of(path)
    if found != expected:
        raise WeightsError(
            f"{path}: damaged or not the authors' file: expected SHA-256 {expected}, found {found}; "
            "delete it and run again to download it anew"
        )


def fetch(url: str, path: Path, sha256: str, by_hand: str) -> Path:
    """Return `path` with the wanted content, downloading it when it is not there.

    The download goes to a temporary name and is renamed once its hash is right, so `path` is never half a file.

    Parameters
    ----------
    url : str
    path : Path
        Where the file is cached.
    sha256 : str
        Hex SHA-256 the file must have, whether found or downloaded.
    by_hand : str
        What the user can do without a network; ends the error's message.

    Raises
    ------
    WeightsError
        When there is no network, or the file has another hash.
    """
    if path.exists():
        check_sha256(path, sha256)
        return path
    try:
        with write_once(path) as temporary:
            _download(url, temporary)
            found = sha256_of(temporary)
            if found != sha256:
                raise WeightsError(f"{url}: expected SHA-256 {sha256}, downloaded {found}; try again, or {by_hand}")
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise WeightsError(f"{url}: cannot be downloaded to {path} ({reason}); {by_hand}") from error
    return path


def _download(url: str, path: Path) -> None:
    from tqdm import tqdm

    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response, path.open("wb") as file:
        length = response.headers.get("Content-Length")
        total = int(length) if length else None
        # disable=None: no bar where stderr is no terminal
        with tqdm(desc=path.name, total=total, unit="B", unit_scale=True, disable=None) as bar:
            for chunk in _chunks(response):
                file.write(chunk)
                bar.update(len(chunk))


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        yield chunk


def read_state_dict(path: Path) -> dict[str, "torch.Tensor"]:
    """Load a PyTorch state dict with ``weights_only=True``: nothing in the file is executed.

    Raises
    ------
    WeightsError
        When the file is missing, damaged, holds more than tensors, or is no mapping of names to tensors.
    """
    import pickle

    import torch

    expected = "expected a PyTorch state dict of plain tensors (loaded with weights_only=True)"
    _check_is_torch_file(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise WeightsError(
            f"{path}: weights file cannot be read ({error.strerror or error}); check the path"
        ) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path}: {expected}, found {first_line(error)}; use the authors' file") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"{path}: {expected}, found {_content(state)}; save model.state_dict() alone")
    return dict(state)


def _check_is_torch_file(path: Path) -> None:
    """Refuse what no version of ``torch.save`` writes: torch's own errors on a text file say nothing of it."""
    try:
        with path.open("rb") as file:
            begin = file.read(16)
    except OSError as error:
        raise WeightsError(f"{path}: weights file cannot be read ({error.strerror}); check the path") from error
    if not begin.startswith(_TORCH_FILE_BEGINS):
        found = f"a file that begins with {begin!r}" if begin else "an empty file"
        raise WeightsError(f"{path}: is no PyTorch checkpoint but {found}; use the authors' file")


def fill_model(model: "torch.nn.Module", state: Mapping[str, "torch.Tensor"], path: Path) -> None:
    """Copy `state` into `model`; names and shapes must be exactly the model's.

    Raises
    ------
    WeightsError
        Naming the first few parameters that differ; the model is then unchanged.
    """
    wanted = model.state_dict()
    problems = [f"no {name}" for name in wanted if name not in state]
    problems += [f"unknown {name}" for name in state if name not in wanted]
    problems += [
        f"{name} has shape {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if problems:
        named = ", ".join(problems[:_N_NAMED]) + (", ..." if len(problems) > _N_NAMED else "")
        raise WeightsError(
            f"{path}: weights of another model: {len(problems)} of {len(wanted)} parameters differ: {named}; "
            "check that file and codec belong together"
        )
    model.load_state_dict(dict(state))


def save_state_dict(state: Mapping[str, "torch.Tensor"], path: Path) -> None:
    """Save a state dict as `torch.save` does, whole or not at all, with bytes that depend on the tensors alone.

    Written through an open file: given a name, `torch.save` would store that (temporary, hence varying) name inside.
    """
    import torch

    with write_once(path) as temporary, temporary.open("wb") as file:
        torch.save(dict(state), file)


def first_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message; torch's run to many."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__


def _content(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a mapping with the entries {', '.join(str(key) for key in list(value)[:_N_NAMED])}"
    return f"a {type(value).__name__}"
