"""What the faults strike at: a corpus, the commands that build and merge its store, and how they end undisturbed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from benchmarks.faults import small_codec
from benchmarks.faults.child import Child, Ended
from benchmarks.faults.steps import Step
from benchmarks.faults.tally import NotHeldError
from featstore.corpora.synthetic import make_corpus
from featstore.store import Store
from featstore.verify import verify_store

Layout = Literal["dense", "factored"]
LAYOUTS: tuple[Layout, ...] = ("dense", "factored")
STORE_NAME = "store.h5"
N_PARTS = 3


@dataclass(frozen=True)
class Work:
    """A command that makes a store, whatever folder the store is put into: ``build-store`` or ``merge-stores``.

    The store is called `STORE_NAME` in every folder, so that what else a command leaves there has the same names too.
    """

    kind: Literal["build", "merge"]
    arguments: tuple[str, ...]

    def command(self, folder: Path) -> list[str]:
        """Return the command that makes the store in `folder`."""
        return [f"{self.kind}-{'store' if self.kind == 'build' else 'stores'}", *self.arguments, *_output(folder)]


@dataclass(frozen=True)
class Reference:
    """How a piece of work ends undisturbed.

    Attributes
    ----------
    folder : Path
        Where its result is kept.
    digest : str
        The store's content digest.
    names : frozenset of str
        Everything it leaves in its folder, relative to it.
    steps : list of Step
    active_s : float
        From the first step to the end.
    """

    folder: Path
    digest: str
    names: frozenset[str]
    steps: list[Step]
    active_s: float


@dataclass
class Scene:
    """A corpus and a codec, and the work that is done with them.

    Attributes
    ----------
    folder : Path
        For all that is kept between runs.
    codec : tuple of str
        Options of ``build-store`` that choose codecs and weights.
    runner : tuple of str
        Options of the runner (`benchmarks.faults.runner`).
    n_speakers, n_utterances : int
        Of the corpus; utterances are of each speaker.
    n_workers : int
        Processes that prepare utterances for a build.
    """

    folder: Path
    codec: tuple[str, ...]
    runner: tuple[str, ...]
    n_speakers: int
    n_utterances: int
    n_workers: int = 0
    _references: dict[Work, Reference] = field(default_factory=dict)

    @cached_property
    def corpus_options(self) -> tuple[str, ...]:
        """Options that name the corpus, which is made when it is first asked for."""
        paths = make_corpus(self.folder / "corpus", self.n_speakers, self.n_utterances)
        roots = str(paths.librispeech_root), str(paths.alignments_root)
        return "--librispeech-root", roots[0], "--alignments-root", roots[1]

    @cached_property
    def parts(self) -> tuple[str, ...]:
        """Shards of the corpus that are to be merged."""
        folder = self.folder / "parts"
        for index in range(1, N_PARTS + 1):
            command = self.build("factored").command(folder)
            self.finish([*command, "--shard", f"{index}/{N_PARTS}"])
        return tuple(str(path) for path in sorted((folder / f"{STORE_NAME}.shards").glob("shard-*.h5")))

    def build(self, layout: Layout, *more: str) -> Work:
        """Return the work of building the store of the corpus."""
        workers = "--workers", str(self.n_workers)
        return Work("build", (*self.corpus_options, *self.codec, *workers, "--embeddings", layout, *more))

    def merge(self, layout: Layout) -> Work:
        """Return the work of merging the shards of the corpus."""
        return Work("merge", (*self.parts, "--embeddings", layout))

    def start(self, command: Sequence[str], *runner: str) -> Child:
        """Start a command."""
        return Child(command, [*self.runner, *runner])

    def finish(self, command: Sequence[str], *runner: str) -> Ended:
        """Run a command to its end, which has to be a good one.

        Raises
        ------
        NotHeldError
        """
        with self.start(command, *runner) as child:
            ended = child.end()
        if ended.exit_code:
            raise NotHeldError(f"{command[0]} undisturbed: {ended.said}")
        return ended

    def reference(self, work: Work) -> Reference:
        """Return how a piece of work ends undisturbed; done when it is first asked for."""
        if work not in self._references:
            folder = self.folder / f"reference-{len(self._references)}"
            ended = self.finish(work.command(folder))
            active_s = ended.end_s - ended.steps[0].time_s
            digest = _digest(folder / STORE_NAME)
            self._references[work] = Reference(folder, digest, names_in(folder), ended.steps, active_s)
        return self._references[work]


def small_scene(folder: Path, n_workers: int = 0) -> Scene:
    """Return the scene of most faults: 16 utterances of about 3 s in 6 shards, built in a second after start-up."""
    codec = ("--codec", small_codec.NAME, "--eval-frac", "0.25")
    return Scene(folder, codec, ("--shard-utterances", "3"), n_speakers=4, n_utterances=4, n_workers=n_workers)


def real_scene(folder: Path) -> Scene:
    """Return the scene of the real codecs, EnCodec and SpeechTokenizer with untrained weights: 4 utterances, 2 shards.

    Making the weights takes longer than all the rest; they are made once here and given to every build.
    """
    runner = ("--with-torch", "--shard-utterances", "2")
    making = Scene(folder, ("--weights", "untrained", "--eval-frac", "0.5"), runner, n_speakers=2, n_utterances=2)
    making.finish(making.build("factored").command(folder / "making"))
    weights = folder / "making" / f"{STORE_NAME}.weights"
    files = {suffix: str(next(weights.glob(f"*{suffix}"))) for suffix in (".th", ".pt")}
    config = next(path for path in weights.glob("*.json") if "recipe_sha256" not in path.read_text(encoding="utf-8"))
    codec = ("--encodec-ckpt", files[".th"], "--st-ckpt", files[".pt"], "--st-config", str(config), *making.codec[2:])
    return Scene(folder, codec, runner, n_speakers=2, n_utterances=2)


def check_whole(folder: Path, reference: Reference) -> None:
    """Check that a folder holds what the undisturbed work leaves: the very store, sound, and nothing besides.

    Raises
    ------
    NotHeldError, RvqprobeError
    """
    found = _digest(folder / STORE_NAME)
    if found != reference.digest:
        raise NotHeldError(f"content digest {found[:12]}, undisturbed it is {reference.digest[:12]}")
    verify_store(folder / STORE_NAME, full=True)
    names = names_in(folder)
    if names != reference.names:
        more, less = sorted(names - reference.names), sorted(reference.names - names)
        raise NotHeldError(f"left behind {more}, lacking {less}, against undisturbed work")


def finished_shards(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the finished shards of a build, by name: inode and time of change, by which a rewritten one shows."""
    shards = {}
    for path in sorted((folder / f"{STORE_NAME}.shards").glob("shard-*.h5")):
        if not path.name.startswith("."):
            status = path.stat()
            shards[path.name] = status.st_ino, status.st_mtime_ns
    return shards


def names_in(folder: Path) -> frozenset[str]:
    """Return the names of everything below a folder, relative to it."""
    return frozenset(str(path.relative_to(folder)) for path in folder.rglob("*"))


def error_line(ended: Ended) -> str:
    """Return the one line of a clean refusal: exit code 1, one ``Error:`` at the end, no traceback.

    Raises
    ------
    NotHeldError
    """
    lines = ended.stderr.strip().splitlines() or [""]
    if "Traceback" in ended.stderr:
        raise NotHeldError(f"a traceback, {ended.said}")
    if ended.exit_code != 1 or [line for line in lines if line.startswith("Error: ")] != lines[-1:]:
        raise NotHeldError(f"expected exit code 1 and one line of error at the end: {ended.said}")
    return lines[-1]


def _digest(path: Path) -> str:
    with Store(path) as store:
        return store.content_digest


def _output(folder: Path) -> tuple[str, str]:
    return "--output", str(folder / STORE_NAME)
