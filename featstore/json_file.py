"""Read a JSON object from a file that may be anything: whole, or refused in words."""

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from featstore.patient_read import UnreadableFileError, read_patiently
from featstore.safe_text import printable


class NotJsonError(Exception):
    """What a file holds instead of a JSON object, in words that follow "found"."""


def read_json_object(path: Path, max_bytes: int) -> dict[str, Any]:
    """Return the object of a JSON file in UTF-8.

    Stricter than the standard library: a name that comes twice, NaN and infinity (a number too large for float64
    included) are refused, for none of them survives being written and read by another program.

    Parameters
    ----------
    path : Path
    max_bytes : int
        The file may not be larger.

    Raises
    ------
    NotJsonError
        When the file cannot be read, is too large, no UTF-8, no JSON, too deep for the parser, or no object.
    """
    try:
        text = read_patiently(path, max_bytes).decode("utf-8-sig")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
    except UnreadableFileError as error:
        raise NotJsonError(f"a file that cannot be read ({error})") from error
    except RecursionError as error:
        raise NotJsonError("JSON nested too deeply") from error
    except ValueError as error:  # no UTF-8, no JSON, a whole number of thousands of digits, what the hooks refuse
        raise NotJsonError(f"no JSON ({printable(error, 200)})") from error
    if not isinstance(value, dict):
        raise NotJsonError(f"a JSON {type(value).__name__}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object names an entry twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:40]} is too large a number")
    return value
