"""Weights files: hash, fetch, load without running code from them, save with the same bytes every time."""

import hashlib
import http.client
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from featstore.atomic import write_once
from featstore.errors import WeightsError
from featstore.patient_read import kind_of_special
from featstore.safe_text import first_line, printable
from featstore.zip_bounds import check_zip

if TYPE_CHECKING:
    import torch

_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 30.0
_ZIP_BEGINS, _OLD_BEGINS = b"PK\x03\x04", b"\x80"  # what torch.save writes, and what it wrote before 1.6
MAX_BYTES = 4 * 2**30  # the largest codec here has 0.5 GiB
_LONGEST_NAME_CHARS = 150
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
        _check_size(path)
        try:
            with path.open("rb") as file:
                for chunk in _chunks(file):
                    digest.update(chunk)
        except OSError as error:
            raise _unreadable(path, error) from error
    return digest.hexdigest()


def _check_size(path: Path) -> None:
    """Refuse what would hang or never end, before it is opened."""
    special = kind_of_special(path)
    if special is not None:
        raise WeightsError(f"{printable(path)}: expected a weights file, found {special}; check the path")
    try:
        n_bytes = path.stat().st_size
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if n_bytes > MAX_BYTES:
        raise WeightsError(
            f"{printable(path)}: expected a weights file of at most {MAX_BYTES} bytes, found {n_bytes}; check the path"
        )


def _unreadable(path: Path, error: Exception) -> WeightsError:
    reason = getattr(error, "strerror", None) or error
    return WeightsError(f"{printable(path)}: weights file cannot be read ({reason}); check the path")


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
        total = int(length) if length and length.isascii() and length.isdigit() else None
        # disable=None: no bar where stderr is no terminal
        with tqdm(desc=path.name, total=total, unit="B", unit_scale=True, disable=None) as bar:
            for chunk in _chunks(response):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > MAX_BYTES:
                    raise OSError(f"no end after {MAX_BYTES} bytes")


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
    import torch

    expected = "expected a PyTorch state dict of plain tensors (loaded with weights_only=True)"
    _check_is_torch_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old torch names in the file, of which a user can change nothing
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises whatever a damaged file makes it stumble over
        if isinstance(error, OSError) and error.errno is not None:
            raise _unreadable(path, error) from error
        found = first_line(error).split(". ")[0]  # torch goes on with how to load it all the same, without the guard
        raise WeightsError(f"{printable(path)}: {expected}, found {found}; use the authors' file") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(f"{printable(path)}: {expected}, found {_content(state)}; save model.state_dict() alone")
    odd = next((name for name, value in state.items() if not _is_plain(name, value)), None)
    if odd is not None:
        named = printable(odd, _LONGEST_NAME_CHARS)
        raise WeightsError(f"{printable(path)}: {expected}, found {named}, which is none; use the authors' file")
    return dict(state)


def _is_plain(name: object, tensor: "torch.Tensor") -> bool:
    """Tell a named tensor of numbers in memory from sparse, quantised and empty-shelled ones, which no codec has."""
    import torch

    is_dense = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return isinstance(name, str) and is_dense and not (tensor.is_quantized or tensor.is_complex())


def _check_is_torch_file(path: Path) -> None:
    """Refuse what no version of ``torch.save`` writes: torch's own errors on a text file say nothing of it."""
    _check_size(path)
    try:
        with path.open("rb") as file:
            begin = file.read(16)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not begin.startswith((_ZIP_BEGINS, _OLD_BEGINS)):
        found = f"a file that begins with {begin!r}" if begin else "an empty file"
        raise WeightsError(f"{printable(path)}: is no PyTorch checkpoint but {found}; use the authors' file")
    if begin.startswith(_ZIP_BEGINS):
        try:
            check_zip(path, MAX_BYTES)
        except ValueError as error:
            found = printable(error, 300)
            raise WeightsError(
                f"{printable(path)}: expected a PyTorch checkpoint, found {found}; use the authors' file"
            ) from error


def fill_model(model: "torch.nn.Module", state: Mapping[str, "torch.Tensor"], path: Path) -> None:
    """Copy `state` into `model`; names and shapes must be exactly the model's, and every number finite.

    Raises
    ------
    WeightsError
        Naming the first few parameters that differ, or one that is not finite; the model is then unchanged.
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
        first = [printable(problem, _LONGEST_NAME_CHARS) for problem in problems[:_N_NAMED]]
        named = ", ".join(first) + (", ..." if len(problems) > _N_NAMED else "")
        raise WeightsError(
            f"{printable(path)}: weights of another model: {len(problems)} of {len(wanted)} parameters differ: "
            f"{named}; check that file and codec belong together"
        )
    # Codes of a network with NaN inside would look like codes.
    broken = next((name for name, tensor in state.items() if not tensor.isfinite().all()), None)
    if broken is not None:
        raise WeightsError(
            f"{printable(path)}: {broken} holds NaN or infinity; the file is damaged, use the authors' file"
        )
    try:
        model.load_state_dict(dict(state))
    except Exception as error:  # a type of number that cannot be copied
        raise WeightsError(f"{printable(path)}: weights of another model ({first_line(error)})") from error


def save_state_dict(state: Mapping[str, "torch.Tensor"], path: Path) -> None:
    """Save a state dict as `torch.save` does, whole or not at all, with bytes that depend on the tensors alone.

    Written through an open file: given a name, `torch.save` would store that (temporary, hence varying) name inside.
    """
    import torch

    with write_once(path) as temporary, temporary.open("wb") as file:
        torch.save(dict(state), file)


def _content(value: Any) -> str:
    if isinstance(value, Mapping):
        first = ", ".join(printable(key, _LONGEST_NAME_CHARS) for key in list(value)[:_N_NAMED])
        return f"a mapping with the entries {first}"
    return f"a {type(value).__name__}"
