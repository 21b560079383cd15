"""Fixtures shared by all tests."""

from pathlib import Path

import pytest

from tests.support import paths, tiny_codec
from tests.support.corpus import make_tiny_corpus


@pytest.fixture
def tiny():
    """Make the test-side codec known for one test."""
    return tiny_codec.register()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real data, or skip: see tests/support/paths.py."""
    return paths.shared_data()


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory):
    """A corpus of tones with exact TextGrids: 3 speakers x 8 utterances of about 2 s (tests/support/corpus.py)."""
    return make_tiny_corpus(tmp_path_factory.mktemp("corpus"))
