"""Fixtures shared by all tests."""

import os
import shutil
import signal
import tempfile
from pathlib import Path

# Before NumPy is loaded, and for every process that a test starts: BLAS threads on a busy machine wait for each other,
# and the same tests then take minutes longer.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What tests check and remember is nobody else's, and gone with them.
os.environ["RVQPROBE_CACHE_DIR"] = tempfile.mkdtemp(prefix="rvqprobe-tests-")

import pytest

from tests.support import command_line, paths, tiny_codec
from tests.support.corpus import make_tiny_corpus

# What a background shell starts ignores SIGINT, and Python leaves it so: tests that interrupt would see nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish():
    """Remove what was remembered of stores that are gone."""
    shutil.rmtree(os.environ["RVQPROBE_CACHE_DIR"], ignore_errors=True)


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


@pytest.fixture(scope="session")
def melrvq_store(tiny_corpus, tmp_path_factory):
    """The tiny corpus through melrvq by the command line; its weights lie beside it. Tests must not change it."""
    path = tmp_path_factory.mktemp("melrvq") / "store.h5"
    options = [*command_line.corpus_options(tiny_corpus), "--eval-frac", "0.25"]
    command_line.run_well("build-store", *options, "--codec", "melrvq", "--output", path)
    return path


@pytest.fixture(scope="session")
def melrvq_weights(melrvq_store):
    """Weights of melrvq, for builds that should not spend time on making them."""
    return melrvq_store.with_name("store.h5.weights") / "melrvq.npz"


@pytest.fixture(scope="session")
def exact_probing(melrvq_store, tmp_path_factory):
    """``probe --backend exact`` in a process of its own: its results folder, and how it ended.

    The last line of its output tells which modules it had loaded. Tests must not change the folder's records.
    """
    folder = tmp_path_factory.mktemp("exact") / "results"
    arguments = ["probe", str(melrvq_store), "--output", str(folder), "--backend", "exact"]
    ended = command_line.run_python(
        f"import sys, cli\ncli.main({arguments!r}, standalone_mode=False)\nprint('loaded', *sys.modules)"
    )
    assert ended.exit_code == 0, ended.stderr
    return folder, ended
