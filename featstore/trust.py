"""Which files this user's programs wrote or have checked: a small note each, outside the file.

A store cannot vouch for itself: whoever makes a hostile one seals it too. So what has been checked is remembered in the
user's cache folder, by path, inode, size and times, none of which a copy or an edit leaves as they were. Device numbers
are left out: one network file system has other numbers on other nodes.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path


def is_known(path: Path) -> bool:
    """Tell whether `path` is a file that was written or checked here, and is unchanged since."""
    try:
        return _note(path).read_text(encoding="utf-8") == identity_of(path)
    except (OSError, UnicodeDecodeError):
        return False


def remember(path: Path, identity: str) -> None:
    """Note that a file was written or checked here; where no note can be kept it will be checked again.

    Parameters
    ----------
    path : Path
    identity : str
        `identity_of` the file before it was checked: one put in its place meanwhile is not known.
    """
    with contextlib.suppress(OSError):
        note = _note(path)
        note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = note.with_name(f"{note.name}.{os.getpid()}")
        temporary.write_text(identity, encoding="utf-8")
        temporary.replace(note)


def forget(path: Path) -> None:
    """Remove the note of a file that is going to be removed."""
    with contextlib.suppress(OSError):
        _note(path).unlink(missing_ok=True)


def cache_folder() -> Path:
    """Return the cache: ``$RVQPROBE_CACHE_DIR``, else ``$XDG_CACHE_HOME/rvqprobe``, else ``~/.cache/rvqprobe``."""
    own, base = os.environ.get("RVQPROBE_CACHE_DIR", ""), os.environ.get("XDG_CACHE_HOME", "")
    if own:
        return Path(own)
    home = Path(base) if os.path.isabs(base) else Path(os.path.expanduser("~")) / ".cache"
    return home / "rvqprobe"


def _note(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()
    return cache_folder() / "checked-stores" / f"{name}.json"


def identity_of(path: Path) -> str:
    """Return what tells a file from any other, and from itself after a change."""
    status = os.stat(path)
    names = ("st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
    return json.dumps({name: getattr(status, name) for name in names} | {"path": os.path.realpath(path)})
