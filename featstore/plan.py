"""What a build will do, laid out before anything is written."""

import glob
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from featstore.codecs.base import Precision
from featstore.codecs.choose import WeightsRequest
from featstore.codecs.device import choose_device
from featstore.codecs.registry import codec_family
from featstore.corpora.base import Utterance
from featstore.corpora.librispeech import scan_librispeech
from featstore.errors import StoreError
from featstore.labels.pitch import check_f0_method
from featstore.preflight import WorkLeft, check_room
from featstore.sizes import SizeEstimate, estimate_sizes
from featstore.split import WAY_OUT, make_split, read_split, take_subset
from featstore.stopwatch import shares_text
from featstore.wording import counted
from featstore.writer import Compression, Layout

SHARD_UTTERANCES = 32  # what an interrupted build loses at most: a minute or two of encoding
# Every shard holds the codebooks (38 MB for the two codecs of the study), so a large corpus gets larger shards. Not so
# with latents, of which 32 utterances have twice as many bytes and more, held in memory until their shard is written.
MOST_SHARDS = 128


@dataclass(frozen=True)
class BuildOptions:
    """What to build; see ``cli.py build-store --help`` for each.

    `shard` is (i, n), counted from 1, to build one of n slices only.
    """

    librispeech_root: Path
    alignments_root: Path
    split: str
    output: Path
    weights: Mapping[str, WeightsRequest]
    embeddings: Layout = "dense"
    compression: Compression = "zstd"
    max_utterances: int | None = None
    eval_frac: float = 0.1
    seed: int = 42
    force_resplit: bool = False
    f0: str = "yin"
    device: str = "auto"
    shard: tuple[int, int] | None = None
    shard_utterances: int = SHARD_UTTERANCES
    retry_skipped: bool = False
    workers: int | None = None
    store_latents: bool = False
    batch_s: float | None = None
    precision: Precision = "float32"


@dataclass(frozen=True)
class BuildPlan:
    """What a build will do: utterances, irregular files, split, slices, sizes and where things go."""

    options: BuildOptions
    scanned: Sequence[Utterance]
    utterances: Sequence[Utterance]
    irregular: Mapping[str, str]
    split: Mapping[str, int]
    slices: Sequence[Sequence[Utterance]]
    sizes: SizeEstimate

    @property
    def shards_folder(self) -> Path:
        """Folder of the finished shards; removed once the store is whole."""
        return shards_folder_of(self.options.output)

    @property
    def weights_folder(self) -> Path:
        """Folder of untrained weights; kept."""
        return self.options.output.with_name(f"{self.options.output.name}.weights")

    @property
    def split_path(self) -> Path:
        """The exported split, beside the store."""
        return self.options.output.with_name("split.json")

    def shard_path(self, index: int) -> Path:
        """Return the file of slice `index`, counted from 0."""
        return self.shards_folder / f"shard-{index + 1:05d}-of-{len(self.slices):05d}.h5"

    @property
    def staged_path(self) -> Path:
        """Where the store is merged and verified before it gets its name: beside it, on the same file system."""
        return self.options.output.with_name(f"{self.options.output.name}.merged")

    @property
    def work_left(self) -> WorkLeft:
        """What is still to be written, looked up anew: finished shards, and a result that stands, are not.

        A result that takes up what was skipped is a new one, beside the old until it is whole.
        """
        options, stands = self.options, self.options.output.exists()
        has_merge = options.shard is None and (options.retry_skipped or not stands)
        every = () if stands else range(len(self.slices))
        asked = every if options.shard is None else (options.shard[0] - 1,)
        slices = [len(self.slices[index]) for index in asked if not self.shard_path(index).exists()]
        if stands and options.retry_skipped and options.shard is None:
            slices = [options.shard_utterances]  # how many are to be taken up is not known yet; one shard at a time
        # of a build that was killed: removed before the merge begins
        staged = [self.staged_path, *self.staged_path.parent.glob(f".{glob.escape(self.staged_path.name)}.*.partial")]
        n_bytes = sum(path.stat().st_size for path in staged if has_merge and path.is_file())
        n_utterances = len(self.utterances)
        return WorkLeft(
            options.output, options.embeddings, self.sizes, n_utterances, slices, has_merge, n_bytes, self._batch_here_s
        )

    @cached_property  # a device is tried for it
    def _batch_here_s(self) -> float:
        """Seconds of audio in a batch that lies in this machine's memory; in a device's own it takes none here."""
        asked_s, device = self.options.batch_s or 0.0, self.options.device
        if asked_s and device == "auto":
            device = choose_device(device)
        return asked_s if device == "cpu" else 0.0


@dataclass
class BuildResult:
    """What was made, and seconds by stage. `path` is None when only one slice was built."""

    path: Path | None
    shard_path: Path | None = None
    n_built: int = 0
    n_reused: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def plan_build(options: BuildOptions) -> BuildPlan:
    """Scan the corpus and lay out the build; reads no audio beyond a few headers and writes nothing.

    Raises
    ------
    CorpusError, StoreError, UnknownNameError
        When the corpus, the split, the options, or the space, files, memory and rights there are do not allow it.
    """
    _check_options(options)
    families = [codec_family(name) for name in options.weights]
    scan = scan_librispeech(options.librispeech_root, options.alignments_root, options.split)
    split_path = options.output.with_name("split.json")
    if split_path.exists() and not options.force_resplit:
        split = read_split(split_path, scan.utterances, options.eval_frac, options.seed, _way_out(options))
    else:
        split = make_split(scan.utterances, options.eval_frac, options.seed)
    utterances = take_subset(scan.utterances, options.max_utterances, options.seed)
    n_slices = options.shard[1] if options.shard else _n_shards(len(utterances), options)
    edges = [len(utterances) * index // n_slices for index in range(n_slices + 1)]
    slices = [utterances[a:b] for a, b in itertools.pairwise(edges)]
    sizes = estimate_sizes(utterances, families, options.compression, n_slices, options.store_latents)
    plan = BuildPlan(options, scan.utterances, utterances, dict(scan.irregular), split, slices, sizes)
    check_room(plan.work_left)
    return plan


def _n_shards(n_utterances: int, options: BuildOptions) -> int:
    n_small = -(-n_utterances // options.shard_utterances)
    return n_small if options.store_latents else min(MOST_SHARDS, n_small)


def shards_folder_of(output: Path) -> Path:
    """Return the folder in which the shards of a store stand until they are merged."""
    return output.with_name(f"{output.name}.shards")


def _way_out(options: BuildOptions) -> str:
    """Say how to get another split: what was built with the old one is never overwritten, so it has to go first."""
    built = [str(path) for path in (options.output, shards_folder_of(options.output)) if path.exists()]
    if not built:
        return WAY_OUT
    return f"remove {' and '.join(built)} and use --force-resplit, or choose another output folder to keep both"


def _check_options(options: BuildOptions) -> None:
    check_f0_method(options.f0)
    if not options.weights:
        raise StoreError("no codec was asked for; give --codec")
    without = [name for name in options.weights if options.store_latents and not codec_family(name).has_latents]
    if without:
        raise StoreError(
            f"--store-latents: expected codecs that give their encoder's output, found {', '.join(without)}, which "
            f"{'does' if len(without) == 1 else 'do'} not; leave the option out, or choose other codecs with --codec"
        )
    if options.store_latents and options.batch_s:
        raise StoreError(
            "--batch-seconds with --store-latents: latents are taken one utterance at a time; leave one out"
        )
    if not 0 <= options.eval_frac < 1:
        raise StoreError(f"--eval-frac {options.eval_frac}: expected a share from 0 to below 1")
    if options.shard and not 1 <= options.shard[0] <= options.shard[1]:
        raise StoreError(f"--shard {options.shard[0]}/{options.shard[1]}: expected I/N with 1 <= I <= N")
    if options.output.is_dir():
        raise StoreError(f"{options.output}: expected a file name for --output, found a folder")


def evaluation_note(plan: BuildPlan) -> str | None:
    """Return a warning where the utterances to build leave a speaker, or everything, without evaluation.

    The split is made from the full scan, so that it never changes; a small subset may then hold hardly any evaluation
    utterance.
    """
    speakers = {utterance.speaker for utterance in plan.utterances}
    evaluated = {utterance.speaker for utterance in plan.utterances if plan.split[utterance.id]}
    if evaluated == speakers:
        return None
    found = f"evaluation utterances of {len(evaluated)} of {counted(len(speakers), 'speaker')}"
    return f"warning: there are {found}; scores need more (raise --max-utterances or --eval-frac)"


def result_text(plan: BuildPlan, result: BuildResult) -> str:
    """Return the closing note of a build."""
    skipped = counted(len(result.skipped), "utterance")
    made = f"{counted(result.n_built, 'shard')} built, {result.n_reused} reused, {skipped} skipped"
    if result.seconds:
        made += f" (time: {shares_text(result.seconds)})"
    if result.path is None:
        parts = f"{plan.shards_folder}/*.h5"
        return f"{made}; when all {len(plan.slices)} are there: merge-stores {parts} --output {plan.options.output}"
    return made
