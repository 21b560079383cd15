"""Files that are not what they should be: thousands of damaged inputs, each accepted or refused in one line.

A mutant is read in a worker process whose memory is limited and whose time its parent watches, so that an endless loop
or a crash in a C library is seen and laid to the mutant that caused it.
"""

import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.faults.mutations import mutate_bytes, mutate_json, mutate_text
from schemas.errors import RvqprobeError

KINDS = ("flac", "textgrid", "config", "checkpoint", "split", "store")
BUILD = "build"
MAX_FAILURES = 20
LIMIT_S = {BUILD: 120.0}
DEFAULT_LIMIT_S = 10.0
LIMIT_BYTES = 2 * 10**9
_START_LIMIT_S = 120.0  # of a worker, on a busy machine: it loads torch
_RUNS_PER_WORKER = 300
_RUNS_PER_BUILD = 400
_REAL_SHARE = 0.02  # of the checkpoints: the true networks' files are large
SMALL_WEIGHTS = "small.pt"
_SPLIT = "train-clean-100"
_SEED, _EVAL_FRAC = 42, 0.1

Job = tuple[int, str]


def run_malformed(n_runs: int, seed: int, folder: Path, kinds: Sequence[str] = KINDS) -> dict[str, Any]:
    """Read `n_runs` mutants and say how many were held: accepted, or refused by an `RvqprobeError` that fits.

    A refusal fits when its message is one line that names the file. Not held are other exceptions, crashes, more than
    10 s and more than 2 GB. Some runs are builds of whole corpora in which a few files are mutants, and in which every
    good utterance must be kept.

    Parameters
    ----------
    n_runs : int
    seed : int
        Equal seeds give equal mutants.
    folder : Path
        For scratch files; a mutant that was not held stays there, named by its run and kind.
    kinds : sequence of str
        Among `KINDS`; runs go round them.

    Returns
    -------
    dict
        ``runs``, ``held``, and ``failures``, a list of at most 20 short texts.
    """
    sources = folder / "sources"
    make_sources(sources, kinds)
    jobs = [(index, kinds[index % len(kinds)]) for index in range(n_runs)]
    if {"flac", "textgrid"} & set(kinds):
        n_builds = min(max(1, n_runs // _RUNS_PER_BUILD), n_runs)
        jobs[n_runs - n_builds :] = [(index, BUILD) for index, _ in jobs[n_runs - n_builds :]]
    n_workers = max(1, min(2, os.cpu_count() or 1))
    share = min(_RUNS_PER_WORKER, -(-n_runs // n_workers))
    shares = [jobs[first : first + share] for first in range(0, n_runs, share)]
    with ThreadPoolExecutor(n_workers) as pool:
        told = pool.map(lambda share: _watch(share, seed, folder, sources), shares)
        failures = [failure for part in told for failure in part]
    return {"runs": n_runs, "held": n_runs - len(failures), "failures": failures[:MAX_FAILURES]}


# The parent's side


class _Worker:
    """A process that reads mutants; `ask` gives None where the mutant was held, else what happened."""

    def __init__(self, seed: int, folder: Path, sources: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, seed, folder, sources), daemon=False)
        self._process.start()
        other.close()
        if not self._pipe.poll(_START_LIMIT_S):
            raise RuntimeError("a worker did not start")
        self._pipe.recv()

    def ask(self, job: Job) -> str | None:
        limit_s = LIMIT_S.get(job[1], DEFAULT_LIMIT_S)
        try:
            self._pipe.send(job)
            if not self._pipe.poll(limit_s):
                self.end()
                return f"took more than {limit_s:.0f} s"
            answer: str | None = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            return f"ended its process ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"
        return answer

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _watch(jobs: Sequence[Job], seed: int, folder: Path, sources: Path) -> list[str]:
    """Have one worker after the other read mutants; return what was not held."""
    failures, worker = [], None
    try:
        for job in jobs:
            if worker is None or not worker.is_alive:
                worker = _Worker(seed, folder, sources)
            what = worker.ask(job)
            if what is not None:
                failures.append(f"{job[1]} {job[0]} of seed {seed}: {what}"[:400])
    finally:
        if worker is not None:
            worker.end()
    return failures


# The worker's side


def _serve(pipe: Connection, seed: int, folder: Path, sources: Path) -> None:
    import warnings

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    warnings.simplefilter("ignore")
    _load_libraries()
    _limit_memory()
    pipe.send("ready")
    while True:
        try:
            index, kind = pipe.recv()
        except EOFError:
            return
        pipe.send(_try(index, kind, seed, folder, sources))


def _load_libraries() -> None:
    """Load what the mutants need, before memory is limited and time is counted."""
    import soundfile  # noqa: F401
    import speechtokenizer  # noqa: F401
    import textgrid  # noqa: F401
    import torch

    torch.set_num_threads(1)


def _limit_memory() -> None:
    """Let this process take `LIMIT_BYTES` beyond what its libraries have mapped; more is a MemoryError."""
    with open("/proc/self/statm", encoding="ascii") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + LIMIT_BYTES, resource.RLIM_INFINITY))


def _try(index: int, kind: str, seed: int, folder: Path, sources: Path) -> str | None:
    rng = np.random.default_rng([seed, index])
    if kind == BUILD:
        return _build_with_mutants(rng, folder / f"{index}-build")
    path, source, read = _mutant(kind, rng, folder, sources, index)
    # a configuration that says another network than the weights hold is refused by the weights' name
    names = (path.name, SMALL_WEIGHTS) if kind == "config" else (path.name,)
    what = outcome(lambda: read(path, source), names)
    if what is None:
        path.unlink()
    return what


def outcome(read: Callable[[], object], names: Sequence[str]) -> str | None:
    """Call `read`; return None where it accepts or refuses a file called one of `names` as it should, else what was."""
    start_s = time.perf_counter()
    try:
        read()
    except RvqprobeError as error:
        message = str(error)
        if not message.isprintable():
            return f"a message that is not one printable line: {message!r}"
        if not any(name in message for name in names):
            return f"a message that does not name the file: {message}"
    except BaseException as error:  # noqa: BLE001  (that is the question)
        return f"{type(error).__name__}: {str(error)[:200]!r}"
    seconds = time.perf_counter() - start_s
    return None if seconds <= DEFAULT_LIMIT_S else f"took {seconds:.1f} s"


Reader = Callable[[Path, Path], object]


def _mutant(kind: str, rng: np.random.Generator, folder: Path, sources: Path, index: int) -> tuple[Path, Path, Reader]:
    """Write a mutant; return it, what it was made from, and what reads it."""
    candidates = sorted(path for path in (sources / kind).iterdir() if path.is_file())
    if kind == "checkpoint":
        wants_real = rng.random() < _REAL_SHARE
        candidates = [path for path in candidates if path.name.startswith("real") == wants_real]
    source = candidates[int(rng.integers(len(candidates)))]
    path = folder / f"{index}-{kind}{source.suffix}"
    path.write_bytes(_MUTATE.get(kind, mutate_bytes)(source.read_bytes(), rng))
    return path, source, _READ[kind]


_MUTATE = {"textgrid": mutate_text, "config": mutate_json, "split": mutate_json}


def _read_audio(path: Path, source: Path) -> None:
    from featstore.audio import read_audio, resample

    audio = read_audio(path)
    try:
        resample(audio.samples, audio.sample_rate_hz, 24_000)
    except RvqprobeError as error:  # a build lists it under the utterance's id
        raise type(error)(f"{path.name}: {error}") from error


def _read_textgrid(path: Path, source: Path) -> None:
    from featstore.labels.alignment import read_alignment, token_phonemes

    token_phonemes(read_alignment(path), 500, 320, 24_000)


def _read_config(path: Path, source: Path) -> None:
    from featstore.codecs import speechtokenizer
    from featstore.codecs.base import Checkpoint

    small = source.parents[1] / "checkpoint" / SMALL_WEIGHTS  # the network is built from the configuration all the same
    speechtokenizer.load(Checkpoint(small, "checkpoint", path), "cpu")


def _read_checkpoint(path: Path, source: Path) -> None:
    from featstore.codecs import encodec, melrvq, speechtokenizer
    from featstore.codecs.base import Checkpoint

    if path.suffix == ".npz":
        codec: Any = melrvq.load(Checkpoint(path, "checkpoint"), "cpu")
        codec.encode(np.ones(16_000, dtype=np.float32))
    elif path.suffix == ".th":
        encodec.load(Checkpoint(path, "checkpoint"), "cpu")
    else:
        config = source.parent / "configs" / f"{source.stem}.json"
        speechtokenizer.load(Checkpoint(path, "checkpoint", config), "cpu")


def _read_split_file(path: Path, source: Path) -> None:
    from featstore.split import read_split

    read_split(path, _utterances(), _EVAL_FRAC, _SEED)


def _read_store(path: Path, source: Path) -> None:
    from featstore.store import Store
    from featstore.verify import verify_store

    verify_store(path, full=True)
    Store(path).close()


_READ: Mapping[str, Reader] = {
    "flac": _read_audio,
    "textgrid": _read_textgrid,
    "config": _read_config,
    "checkpoint": _read_checkpoint,
    "split": _read_split_file,
    "store": _read_store,
}


def _build_with_mutants(rng: np.random.Generator, folder: Path) -> str | None:
    """Build a small corpus in which three utterances have a mutant; every other one must be in the store."""
    from featstore.build import build_store
    from featstore.plan import plan_build
    from featstore.store import Store

    options = _corpus(folder, n_utterances=4, seed=int(rng.integers(1000)))
    audio = sorted(options.librispeech_root.rglob("*.flac"))
    hurt = [audio[index] for index in rng.choice(len(audio), 3, replace=False)]
    for path in hurt[:2]:
        path.write_bytes(mutate_bytes(path.read_bytes(), rng))
    (textgrid,) = options.alignments_root.rglob(f"{hurt[2].stem}.TextGrid")
    textgrid.write_bytes(mutate_text(textgrid.read_bytes(), rng))
    try:
        build_store(plan_build(options))
        with Store(options.output) as store:
            kept, skipped = set(store.strings("utterances/id")), set(store.strings("skipped/id"))
    except BaseException as error:  # noqa: BLE001  (that is the question)
        return f"{type(error).__name__}: {str(error)[:300]!r}"
    good, every = {path.stem for path in audio if path not in hurt}, {path.stem for path in audio}
    if not good <= kept or kept | skipped != every:
        return f"lost good utterances {sorted(good - kept)}, forgot {sorted(every - kept - skipped)}"
    return None


# What mutants are made from


def make_sources(folder: Path, kinds: Sequence[str] = KINDS) -> None:
    """Write good files of every kind below `folder`, one folder a kind."""
    makers: dict[str, Callable[[Path], None]] = {
        "flac": _make_audio,
        "textgrid": _make_textgrids,
        "config": _make_configs,
        "checkpoint": _make_checkpoints,
        "split": _make_split,
        "store": _make_store,
    }
    for kind in dict.fromkeys(["checkpoint", *kinds] if "config" in kinds else kinds):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        makers[kind](folder / kind)


def _make_audio(folder: Path) -> None:
    import soundfile

    sound = 0.1 * np.random.default_rng(0).standard_normal((6000, 2))
    soundfile.write(folder / "mono.flac", sound[:, 0], 16_000)
    soundfile.write(folder / "stereo.flac", sound, 44_100)
    soundfile.write(folder / "plain.wav", sound, 22_050, subtype="FLOAT")
    soundfile.write(folder / "vorbis.ogg", sound[:, 0], 16_000, format="OGG", subtype="VORBIS")


def _make_textgrids(folder: Path) -> None:
    bounds = [round(0.1 * index, 2) for index in range(11)]
    intervals = list(zip(bounds[:-1], bounds[1:], ["sil", "AA1", "S", "", "spn"] * 2, strict=True))
    long = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0.0\nxmax = 1.0\ntiers? <exists>\nsize = 1\n'
    long += 'item []:\n\titem [1]:\n\t\tclass = "IntervalTier"\n\t\tname = "phones"\n\t\txmin = 0.0\n\t\txmax = 1.0\n'
    long += f"\t\tintervals: size = {len(intervals)}\n"
    short = 'File type = "ooTextFile"\n"TextGrid"\n\n0\n1.0\n<exists>\n1\n"IntervalTier"\n"phones"\n0\n1.0\n10\n'
    for index, (start, end, label) in enumerate(intervals, start=1):
        long += f'\t\t\tintervals [{index}]:\n\t\t\t\txmin = {start}\n\t\t\t\txmax = {end}\n\t\t\t\ttext = "{label}"\n'
        short += f'{start}\n{end}\n"{label}"\n'
    (folder / "long.TextGrid").write_text(long, encoding="utf-8")
    (folder / "short.TextGrid").write_text(short, encoding="utf-8")


def _small_config() -> dict[str, Any]:
    """Return SpeechTokenizer's architecture made narrow."""
    from featstore.codecs.speechtokenizer import RELEASED_CONFIG

    small = {"n_filters": 4, "strides": [5, 4, 3, 2], "dimension": 24, "semantic_dimension": 16}
    return RELEASED_CONFIG | small | {"sample_rate": 12_000, "codebook_size": 64, "n_q": 3}


def _make_configs(folder: Path) -> None:
    from featstore.codecs.speechtokenizer import RELEASED_CONFIG

    for name, config in (("released", RELEASED_CONFIG), ("small", _small_config())):
        (folder / f"{name}.json").write_text(json.dumps(config), encoding="utf-8")


def _make_checkpoints(folder: Path) -> None:
    from featstore.codecs import encodec, melrvq, speechtokenizer

    rng = np.random.default_rng(0)
    audio = [0.1 * rng.standard_normal(24_000).astype(np.float32) for _ in range(4)]
    configs = folder / "configs"
    configs.mkdir(exist_ok=True)
    small = speechtokenizer.make_untrained(audio, 0, folder, _small_config())
    assert small.config_path is not None
    small.path.rename(folder / SMALL_WEIGHTS)
    small.config_path.rename(configs / "small.json")
    encodec.make_untrained(audio, 0, folder).path.rename(folder / "real-encodec.th")
    mel = melrvq.make_untrained(audio, 0, folder).path
    with np.load(mel, allow_pickle=False) as stored:
        arrays = dict(stored)
    arrays["codebooks"] = arrays["codebooks"][:2, :16]
    np.savez(folder / "small.npz", allow_pickle=False, **arrays)
    np.savez_compressed(folder / "packed.npz", allow_pickle=False, **arrays)
    mel.rename(folder / "real-melrvq.npz")


def _utterances() -> list[Any]:
    from featstore.corpora.base import Utterance

    return [
        Utterance(f"{speaker}-1-{index:04d}", str(speaker), Path("x"), None) for speaker in (1, 2) for index in range(9)
    ]


def _make_split(folder: Path) -> None:
    from featstore.split import make_split, write_split

    write_split(folder / "split.json", make_split(_utterances(), _EVAL_FRAC, _SEED), _EVAL_FRAC, _SEED)


def _make_store(folder: Path) -> None:
    from featstore.build import build_store
    from featstore.plan import plan_build

    for embeddings in ("dense", "factored"):
        scratch = folder / f"{embeddings}-scratch"
        built = build_store(plan_build(_corpus(scratch, n_utterances=2, seed=0, embeddings=embeddings)))
        assert built.path is not None
        built.path.rename(folder / f"{embeddings}.h5")


def _corpus(folder: Path, n_utterances: int, seed: int, **options: Any) -> Any:
    """Synthesise a corpus of two speakers; return the options of a build of it."""
    from featstore.codecs.choose import parse_weights
    from featstore.corpora.synthetic import make_corpus
    from featstore.plan import BuildOptions

    corpus = make_corpus(folder / "corpus", 2, n_utterances, seed, _SPLIT)
    weights = parse_weights(["melrvq"], [], {})
    roots = corpus.librispeech_root, corpus.alignments_root
    return BuildOptions(*roots, _SPLIT, folder / "store.h5", weights, device="cpu", **options)


def main() -> None:
    """Run from the command line: number of runs, seed and folder; prints the result as JSON."""
    n_runs, seed, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    kinds = sys.argv[4].split(",") if len(sys.argv) > 4 else KINDS
    start_s = time.perf_counter()
    told = run_malformed(n_runs, seed, folder, kinds)
    print(json.dumps(told | {"seconds": round(time.perf_counter() - start_s, 1)}, indent=1))


if __name__ == "__main__":
    main()
