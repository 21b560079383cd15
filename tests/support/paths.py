"""Where the real data lies: RVQPROBE_SHARED_DATA, by default the folder ../shared/data beside the repository."""

import os
from pathlib import Path

import pytest

_DEFAULT = Path(__file__).parents[2].parent / "shared" / "data"


def shared_data() -> Path:
    """Return the folder of real data; skips the test where there is none."""
    folder = Path(os.environ.get("RVQPROBE_SHARED_DATA", _DEFAULT))
    if not folder.is_dir():
        pytest.skip(f"real LibriSpeech data is not at {folder}; set RVQPROBE_SHARED_DATA to its folder")
    return folder
