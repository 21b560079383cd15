"""The command line: parse, call, print. Every command mirrors a function of featstore or probes.

Nothing heavy is imported at the top, so that ``--help`` is instant and each command loads only what it needs.
"""

import json
import logging
import math
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from schemas.errors import RvqprobeError

Command = TypeVar("Command", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)  # whether it is there, and of the right kind, is the library's to say


class _Command(click.Command):
    """A command for which an unknown name (of a codec, a layer) and a wrong option are wrong usage: exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        from featstore.errors import UnknownNameError
        from probes.errors import WrongUsageError

        try:
            return super().invoke(ctx)
        except (UnknownNameError, WrongUsageError) as error:
            raise click.UsageError(str(error), ctx) from error


class _Group(click.Group):
    """A group whose commands end expected failures with one line and exit code 1."""

    command_class = _Command

    def invoke(self, ctx: click.Context) -> Any:
        from featstore.stopping import INTERRUPTED_NOTE, Terminated, signals_noticed

        try:
            with signals_noticed():
                return super().invoke(ctx)
        except RvqprobeError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt as error:
            click.echo(INTERRUPTED_NOTE, err=True)
            ctx.exit(143 if isinstance(error, Terminated) else 130)
        except BrokenPipeError:
            # the reader of our output has gone (head, say): nothing is left to tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(1)
        except OSError as error:
            from featstore.preflight import space_error

            no_room = space_error(Path(error.filename), error) if error.filename else None
            if no_room is not None:
                raise click.ClickException(str(no_room)) from error
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(
                f"{where}{error.strerror or error}; check the path, its rights and the space"
            ) from error


def options(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Bundle click options that several commands share."""

    def apply(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


class _Shard(click.ParamType[tuple[int, int]]):
    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        parts = str(value).split("/")
        if len(parts) != 2 or not all(part.isdigit() for part in parts) or not 1 <= int(parts[0]) <= int(parts[1]):
            self.fail(f"{value!r}: expected I/N with 1 <= I <= N, such as 3/16", param, ctx)
        return int(parts[0]), int(parts[1])


class _Range(click.FloatRange):
    """A range of numbers, which "nan" is not: no comparison with a bound finds it outside."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not a number", param, ctx)
        return number


class _Device(click.ParamType[str]):
    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", str(value)):
            self.fail(f"{value!r}: expected auto, cpu, cuda, cuda:N or mps", param, ctx)
        return str(value)


def _resamples(ctx: click.Context, param: click.Parameter, value: int) -> int:
    """Refuse a single resample: the two ends of its interval would be one number."""
    if value == 1:
        raise click.BadParameter("expected 0 for no intervals or at least 2 resamples, found 1; 1000 is usual")
    return value


quiet_option = click.option("--quiet", is_flag=True, help="No progress and no notes on stderr.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")

corpus_options = options(
    click.option("--librispeech-root", type=PATH, required=True, help="Folder that holds the split (or LibriSpeech/)."),
    click.option("--alignments-root", type=PATH, required=True, help="Folder of the MFA TextGrids."),
    click.option("--split", default="train-clean-100", show_default=True, help="LibriSpeech split."),
)
build_options = options(
    click.option(
        "--codec",
        "codecs",
        multiple=True,
        help="Codec to encode with; may be repeated. [default: encodec, speechtokenizer]",
    ),
    click.option(
        "--weights",
        multiple=True,
        help="pretrained (default), untrained, or NAME=pretrained|untrained|FILE; melrvq is fitted to the corpus.",
    ),
    click.option("--encodec-ckpt", type=PATH, help="EnCodec checkpoint (.th)."),
    click.option("--st-ckpt", type=PATH, help="SpeechTokenizer checkpoint (.pt)."),
    click.option("--st-config", type=PATH, help="SpeechTokenizer configuration (config.json)."),
    click.option(
        "--embeddings",
        type=click.Choice(["dense", "factored"]),
        default="dense",
        show_default=True,
        help="Write every embedding, or codes and codebooks only.",
    ),
    click.option(
        "--compression",
        type=click.Choice(["zstd", "gzip", "none"]),
        default="zstd",
        show_default=True,
        help="Of the store's frames.",
    ),
    click.option(
        "--store-latents",
        is_flag=True,
        help="Also write the encoder's output before quantisation (probe --representation latent).",
    ),
    click.option(
        "--max-utterances", type=click.IntRange(min=0), help="A seeded subset, speaker by speaker; 0 or absent is all."
    ),
    click.option(
        "--eval-frac",
        type=_Range(0, 1, max_open=True),
        default=0.1,
        show_default=True,
        help="Share of each speaker's utterances to evaluate on.",
    ),
    click.option("--seed", type=int, default=42, show_default=True, help="Of split, subset and weights made here."),
    click.option("--force-resplit", is_flag=True, help="Make split.json anew instead of reusing it."),
    click.option(
        "--f0",
        type=click.Choice(["yin", "pyin", "praat"]),
        default="yin",
        show_default=True,
        help="Pitch tracker; praat needs the extra rvqprobe[praat].",
    ),
    click.option(
        "--batch-seconds",
        "batch_s",
        type=_Range(0, 1800),
        help="Audio that goes through a network together, padding included; 0 for one utterance at a time. "
        "[default: 0 on a CPU, else 160]",
    ),
    click.option(
        "--precision",
        type=click.Choice(["float32", "tf32", "bf16"]),
        default="float32",
        show_default=True,
        help="Of the networks; another than float32 changes codes, and the store says how many.",
    ),
)
probe_options = options(
    click.option(
        "--backend",
        type=click.Choice(["auto", "exact", "cuml", "sklearn"]),
        default="auto",
        show_default=True,
        help="auto means exact.",
    ),
    click.option(
        "--rows",
        type=click.Choice(["collapsed", "dense"]),
        default="collapsed",
        show_default=True,
        help="Fit codeword probes on weighted distinct rows, or on one row a frame.",
    ),
    click.option(
        "--representation",
        type=click.Choice(["codeword", "cumulative", "concat", "latent"]),
        default="codeword",
        show_default=True,
        help="What layer m stands for: its own codebook row; the sum of layers 1..m; these side by side; or no layer, "
        "the encoder's output.",
    ),
    click.option(
        "--max-train-frames",
        type=click.IntRange(min=1),
        help="Fit cumulative, concat and latent probes on a seeded sample of so many frames. [default: all]",
    ),
    click.option(
        "--layer",
        "layers",
        type=click.IntRange(min=1),
        multiple=True,
        help="RVQ layer, counted from 1; may be repeated. [default: all]",
    ),
    click.option(
        "--task",
        "tasks",
        type=click.Choice(["phoneme", "speaker", "pitch"]),
        multiple=True,
        help="May be repeated. [default: all]",
    ),
    click.option(
        "--phones",
        type=click.Choice(["raw", "arpabet39"]),
        default="raw",
        show_default=True,
        help="Keep stress marks, or fold them.",
    ),
    click.option(
        "--keep-silence/--drop-silence", default=True, show_default=True, help="Whether silence is a phoneme class."
    ),
    click.option(
        "--standardize/--no-standardize",
        default=True,
        show_default=True,
        help="Scale features by their standard deviation over training frames.",
    ),
    click.option(
        "--class-weight",
        type=click.Choice(["balanced", "none"]),
        default="balanced",
        show_default=True,
        help="Weighting of the classes.",
    ),
    click.option("--max-iter", type=click.IntRange(min=1), help="Iteration limit. [default: the backend's]"),
    click.option(
        "--tol",
        type=_Range(min=0, min_open=True),
        help="For exact the gap to the optimum, relative to the objective; for others what their library calls tol. "
        "[default: the backend's]",
    ),
    click.option(
        "--eval-by",
        type=click.Choice(["utterance", "speaker"]),
        default="utterance",
        show_default=True,
        help="Evaluate on the store's evaluation utterances, or on a tenth of the speakers held out whole.",
    ),
    click.option(
        "--n-bootstrap",
        type=click.IntRange(min=0),
        callback=_resamples,
        default=0,
        show_default=True,
        help="Resamples for 95 % intervals and paired comparisons: 0 for none, else at least 2; 1000 is usual.",
    ),
    click.option(
        "--n-permutations",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Shuffles for a null of the mutual information.",
    ),
    click.option(
        "--workers",
        "n_workers",
        type=click.IntRange(min=1),
        help="Processes that count and fit, of one thread each unless --threads says more. "
        "[default: one a core where it pays]",
    ),
    click.option(
        "--threads",
        "n_threads",
        type=click.IntRange(min=1),
        help="Threads that share a cumulative or concat fit. [default: the cores that processes leave]",
    ),
    click.option("--require-gpu", is_flag=True, help="Fail where --backend cuml would fall back to the CPU."),
)
build_workers_option = click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes that read, resample and label ahead of the encoder; 0 for none. [default: one beside a CPU, one a "
    "core beside a GPU, none for a small corpus]",
)
device_option = click.option(
    "--device", type=_Device(), default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps."
)


@click.group(
    cls=_Group,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 110,
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
)
@click.version_option(package_name="rvqprobe", prog_name="rvqprobe")
def main() -> None:
    """Ask what each RVQ layer of a neural audio codec encodes: phonemes, speaker, pitch.

    build-store encodes a corpus once; probe fits the linear probes from the store as often as you like.

    Start with:  python cli.py demo
    """


@main.command(short_help="The whole study on a synthetic corpus.")
@click.option(
    "--output", type=PATH, default=Path("results"), show_default=True, help="Folder for corpus, store and results."
)
@click.option("--speakers", type=click.IntRange(min=2), default=8, show_default=True, help="Speakers to synthesise.")
@click.option("--utterances", type=click.IntRange(min=2), default=6, show_default=True, help="Utterances of each.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the corpus.")
@quiet_option
def demo(output: Path, speakers: int, utterances: int, seed: int, quiet: bool) -> None:
    """Run the whole study on a synthetic corpus, with no downloads: corpus, store, 72 probes, figures.

    EnCodec and SpeechTokenizer run with UNTRAINED weights (a control: random networks, k-means codebooks), beside
    melrvq, the acoustic baseline.

    Example:  python cli.py demo --output results
    """
    _start(quiet)
    from featstore.codecs.choose import parse_weights
    from featstore.corpora.synthetic import make_corpus
    from featstore.progress import ProgressBar

    codecs = ["encodec", "speechtokenizer", "melrvq"]
    with ProgressBar("utt", quiet) as bar:
        paths = make_corpus(
            output / "corpus", speakers, utterances, seed, progress=lambda done, total: bar(done, total, "synthesise")
        )
    _note(f"corpus: {speakers} synthetic speakers x {utterances} utterances in {output / 'corpus'}")
    store = output / "store.h5"
    _build(
        quiet,
        librispeech_root=paths.librispeech_root,
        alignments_root=paths.alignments_root,
        split="train-clean-100",
        output=store,
        weights=parse_weights(codecs, ["untrained"], {}),
    )
    click.echo(_probe([store], output, quiet, {"n_workers": None, "n_bootstrap": 1000}))


@main.command("make-corpus", short_help="Synthesise a corpus in LibriSpeech's layout.")
@click.argument("out", type=PATH)
@click.option("--speakers", type=click.IntRange(min=1), default=8, show_default=True, help="Number of speakers.")
@click.option(
    "--utterances", type=click.IntRange(min=1), default=10, show_default=True, help="Utterances of each speaker."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Equal seeds give equal bytes.")
@click.option("--truth", is_flag=True, help="Also write the true F0 of every sample.")
@quiet_option
def make_corpus_command(out: Path, speakers: int, utterances: int, seed: int, truth: bool, quiet: bool) -> None:
    """Synthesise a corpus in LibriSpeech's layout, with exact phones, speakers and F0.

    Example:  python cli.py make-corpus corpus --speakers 40 --utterances 10
    """
    _start(quiet)
    from featstore.corpora.synthetic import make_corpus
    from featstore.progress import ProgressBar

    with ProgressBar("utt", quiet) as bar:
        paths = make_corpus(
            out,
            speakers,
            utterances,
            seed,
            write_truth=truth,
            progress=lambda done, total: bar(done, total, "synthesise"),
        )
    click.echo(f"--librispeech-root {paths.librispeech_root} --alignments-root {paths.alignments_root}")


@main.command("build-store", short_help="Encode a corpus into one HDF5 store.")
@corpus_options
@click.option("--output", type=PATH, required=True, help="The store to make, e.g. store.h5.")
@build_options
@device_option
@build_workers_option
@click.option(
    "--shard", type=_Shard(), help="Build only the I-th of N slices (for job arrays); merge-stores joins them."
)
@click.option(
    "--retry-skipped", is_flag=True, help="Take up utterances that were skipped, such as those repaired since."
)
@click.option("--dry-run", is_flag=True, help="Show the plan, what it needs and what is free; write nothing.")
@quiet_option
def build_store_command(quiet: bool, dry_run: bool, **arguments: Any) -> None:
    """Encode a corpus and write embeddings and frame labels into one HDF5 store.

    Finished shards are kept: after an interruption run the same command again.

    Example:  python cli.py build-store --librispeech-root LibriSpeech --alignments-root alignments --output s.h5
    """
    _start(quiet)
    weights = _weights(arguments)
    if dry_run:
        from featstore.outlook import plan_text
        from featstore.plan import BuildOptions, plan_build

        click.echo(plan_text(plan_build(BuildOptions(**arguments, weights=weights))))
        return
    click.echo(_build(quiet, **arguments, weights=weights))


@main.command("merge-stores", short_help="Merge stores or shards into one.")
@click.argument("parts", type=PATH, nargs=-1, required=True)
@click.option("--output", type=PATH, required=True, help="The merged store.")
@click.option(
    "--embeddings", type=click.Choice(["dense", "factored"]), help="Layout. [default: what the parts' builds asked for]"
)
@click.option(
    "--compression", type=click.Choice(["zstd", "gzip", "none"]), help="[default: what the parts' builds asked for]"
)
@click.option(
    "--virtual", is_flag=True, help="Show the parts' codes and embeddings where they lie instead of copying them."
)
@quiet_option
def merge_stores_command(
    parts: tuple[Path, ...], output: Path, embeddings: Any, compression: Any, virtual: bool, quiet: bool
) -> None:
    """Merge finished stores or shards of the same codecs into one store.

    An utterance that stands in several parts is taken once where they agree on it. A virtual store is small and needs
    its parts, in its own folder or below it.

    Example:  python cli.py merge-stores store.h5.shards/*.h5 --output store.h5
    """
    _start(quiet)
    from featstore.merge import merge_into
    from featstore.progress import ProgressBar

    with ProgressBar("utt", quiet) as bar:
        is_new = merge_into(
            output,
            parts,
            embeddings,
            compression,
            virtual=virtual,
            progress=lambda done, total: bar(done, total, "merge"),
        )
    if not is_new:
        _note(f"{output} is already merged from these parts; nothing to do")
    click.echo(_store_text(output))


@main.command(short_help="Write a store in another layout, compression or container.")
@click.argument("store", type=PATH)
@click.argument("out", type=PATH)
@click.option(
    "--layout",
    "--embeddings",
    "layout",
    type=click.Choice(["dense", "factored"]),
    help="Write every embedding, or codes and codebooks only. [default: as in the store]",
)
@click.option(
    "--format",
    "container",
    type=click.Choice(["hdf5", "zarr"]),
    help="One HDF5 file, or a folder in Zarr 3. [default: zarr where OUT ends in .zarr, else hdf5]",
)
@click.option("--compression", type=click.Choice(["zstd", "gzip", "none"]), help="Of the frames. [default: zstd]")
@quiet_option
def export(store: Path, out: Path, layout: Any, container: Any, compression: Any, quiet: bool) -> None:
    """Write a store anew, without encoding: dense or factored, as HDF5 or Zarr 3, with an equal content digest.

    From any of them; what a virtual store shows of its parts is copied.

    Example:  python cli.py export store.h5 store.zarr --layout factored
    """
    _start(quiet)
    from featstore.export import export_store
    from featstore.progress import ProgressBar

    with ProgressBar("block", quiet) as bar:
        is_new = export_store(store, out, layout, container, compression, bar)
    if not is_new:
        _note(f"{out} is already this export; nothing to do")
    click.echo(_store_text(out))


@main.command(short_help="What is in a store.")
@click.argument("store", type=PATH)
@json_option
def inspect(store: Path, as_json: bool) -> None:
    """Show what is in a store.

    Example:  python cli.py inspect store.h5 --json
    """
    _start(quiet=True)
    from featstore.describe import describe
    from featstore.store import Store

    with Store(store) as opened:
        description = describe(opened)
    click.echo(json.dumps(description, indent=1, ensure_ascii=False) if as_json else _store_text(store))


@main.command(short_help="Check a store against the format.")
@click.argument("store", type=PATH)
@click.option(
    "--full", is_flag=True, help="Read every byte: seal, digests, ranges, dense rows equal to codebook[code]."
)
@click.option(
    "--against", "parts", type=PATH, multiple=True, help="Prove that this store holds all of PART; may be repeated."
)
@click.option("--reseal", is_flag=True, help="With --full: seal a store anew that was changed on purpose.")
@quiet_option
def verify(store: Path, full: bool, parts: tuple[Path, ...], reseal: bool, quiet: bool) -> None:
    """Check a store against the format, and with --full every byte against its seal and its digests.

    Example:  python cli.py verify store.h5 --full
    """
    _start(quiet)
    from featstore.progress import ProgressBar
    from featstore.verify import verify_store

    if reseal and not full:
        raise click.UsageError("--reseal needs --full: what is sealed has to be right in every byte")
    with ProgressBar("B", quiet) as bar:
        unchecked = verify_store(store, full=full, against=parts, reseal=reseal, progress=bar)
    for note in unchecked:
        _note(f"note: {store}: {note}")
    checked = [*(["every byte checked"] if full else []), *(f"holds all of {part}" for part in parts)]
    click.echo(f"{store}: {', '.join(['follows the format', *checked, *(['sealed anew'] if reseal else [])])}")


@main.command(short_help="Fit the linear probes of a store.")
@click.argument("stores", type=PATH, nargs=-1, required=True)
@click.option("--output", type=PATH, required=True, help="Results folder.")
@click.option("--codec", "codecs", multiple=True, help="Codec to probe; may be repeated. [default: all in the store]")
@probe_options
@click.option(
    "--device",
    type=_Device(),
    default="auto",
    show_default=True,
    help="Where exact and sklearn fit classifications: cpu, cuda, cuda:N or mps (cumulative and concat); auto is cpu.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of resamples, shuffles, held-out speakers and samples of frames.",
)
@json_option
@quiet_option
def probe(stores: tuple[Path, ...], output: Path, as_json: bool, quiet: bool, **arguments: Any) -> None:
    """Fit linear probes for every codec, layer and task of a store, and draw the figures.

    Each record is on disk as soon as its probe ends; a rerun with equal settings skips what is done.

    Example:  python cli.py probe store.h5 --output results
    """
    _start(quiet)
    click.echo(_probe(list(stores), output, quiet, arguments, as_json))


@main.command(short_help="Figures and report anew from the records.")
@click.argument("folder", type=PATH)
@json_option
def report(folder: Path, as_json: bool) -> None:
    """Write figures and report.md anew from the records of a results folder, and print the summary.

    Example:  python cli.py report results
    """
    _start(quiet=True)
    from probes.errors import ProbeError
    from probes.figures import write_figures
    from probes.records import read_records

    records = read_records(folder)
    if not records:
        raise ProbeError(f"{folder}: expected a results folder with records.jsonl, found no record; run probe first")
    click.echo(_results(records, folder, write_figures(records, folder / "figures"), as_json))


@main.command(short_help="The whole study: build-store, probe, report.")
@corpus_options
@click.option("--output", type=PATH, default=Path("results"), show_default=True, help="Folder for store and results.")
@build_options
@device_option
@probe_options
@json_option
@quiet_option
def study(output: Path, as_json: bool, quiet: bool, **arguments: Any) -> None:
    """Run the whole study on LibriSpeech: build-store, then probe, then figures and report.

    Example:  python cli.py study --librispeech-root LibriSpeech --alignments-root alignments --weights untrained
    """
    _start(quiet)
    from probes.options import ProbeOptions

    probing = {name: arguments.pop(name) for name in _PROBE_ARGUMENTS}
    ProbeOptions(**probing)  # refuses what makes no sense before the store is built
    if probing["representation"] == "latent" and not arguments["store_latents"]:
        raise click.UsageError("--representation latent needs --store-latents: the store would have none to probe")
    weights = _weights(arguments)
    store = output / "store.h5"
    _build(quiet, **arguments, output=store, weights=weights)
    click.echo(_probe([store], output, quiet, probing, as_json))


@main.command("list-codecs", short_help="The codecs a store can be built with.")
def list_codecs() -> None:
    """List the codecs that a store can be built with.

    Example:  python cli.py list-codecs
    """
    from featstore.codecs.registry import codec_family, codec_names

    for name in codec_names():
        family = codec_family(name)
        clock = f"{family.sample_rate_hz / family.hop_samples:g} Hz"
        click.echo(
            f"{name:16} {family.n_layers} x {family.n_codewords}, dim {family.dim:4}, {clock:6}  {family.summary}"
        )


@main.command("list-backends", short_help="The probe backends and what is usable.")
def list_backends() -> None:
    """List the probe backends: which are usable here, and how to get the others.

    Example:  python cli.py list-backends
    """
    from probes.backends.registry import backend, backend_names

    for name in backend_names():
        found = backend(name)
        state = found.availability()
        if state.available:
            libraries = ", ".join(f"{library} {version}" for library, version in found.versions().items())
            click.echo(f"{name:8} usable on {state.device} ({libraries})")
        else:
            click.echo(f"{name:8} not usable: {state.reason}")
        if state.install:
            click.echo(f"{'':8} install: {state.install}")


_PROBE_ARGUMENTS = (
    "backend",
    "rows",
    "representation",
    "max_train_frames",
    "layers",
    "tasks",
    "phones",
    "keep_silence",
    "standardize",
    "class_weight",
    "max_iter",
    "tol",
    "eval_by",
    "n_bootstrap",
    "n_permutations",
    "n_workers",
    "n_threads",
    "require_gpu",
)


def _start(quiet: bool) -> None:
    """Send notes to stderr: all of them, or with --quiet warnings only."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING, force=True)
    for name in ("featstore", "probes", "cli"):
        logging.getLogger(name).setLevel(logging.WARNING if quiet else logging.INFO)


def _note(text: str) -> None:
    logging.getLogger("cli").info(text)


def _weights(arguments: dict[str, Any]) -> Any:
    """Take the options that choose weights out of `arguments` and return the requests they make."""
    from featstore.codecs.choose import parse_weights

    codecs = list(dict.fromkeys(arguments.pop("codecs"))) or ["encodec", "speechtokenizer"]
    checkpoints = {
        "encodec": (arguments.pop("encodec_ckpt"), None),
        "speechtokenizer": (arguments.pop("st_ckpt"), arguments.pop("st_config")),
    }
    return parse_weights(codecs, arguments.pop("weights"), checkpoints)


def _build(quiet: bool, **arguments: Any) -> str:
    from featstore.build import build_store
    from featstore.plan import BuildOptions, evaluation_note, plan_build, result_text
    from featstore.progress import ProgressBar
    from featstore.safe_text import printable

    plan = plan_build(BuildOptions(**arguments))
    note = evaluation_note(plan)
    if note is not None:
        logging.getLogger("cli").warning(note)
    with ProgressBar("utt", quiet) as bar:
        result = build_store(plan, bar)
    for name, reason in result.skipped.items():
        _note(printable(f"skipped {name}: {reason}"))
    _note(result_text(plan, result))
    return _store_text(result.path) if result.path else str(result.shard_path)


def _probe(stores: list[Path], output: Path, quiet: bool, arguments: dict[str, Any], as_json: bool = False) -> str:
    from featstore.progress import ProgressBar
    from probes.figures_ahead import FiguresAhead
    from probes.options import ProbeOptions

    options = ProbeOptions(**arguments)
    if options.fits_tensors_by_sklearn:
        os.environ["SCIPY_ARRAY_API"] = "1"  # read once, when SciPy is imported
    from probes.runner import run_probes

    with FiguresAhead(output / "figures") as drawing:
        with ProgressBar("probe", quiet) as bar:
            records = run_probes(stores, output, options, bar, drawing.begin)
        return _results(records, output, drawing.finish(records), as_json)


def _results(records: list[dict[str, Any]], folder: Path, figures: list[Path], as_json: bool) -> str:
    from probes.comparisons import write_comparisons
    from probes.records import read_records
    from probes.report import summary_table, write_report

    # Of the whole folder, whatever this run was about; its own records come last, and so count.
    comparisons = write_comparisons([*read_records(folder), *records], folder)
    report_path = write_report(records, folder)
    if as_json:
        return json.dumps(records, indent=1)
    drawn = ", ".join(str(path) for path in figures if path.suffix == ".png")
    lines = [
        f"{summary_table(records)}\n",
        f"figures: {drawn}",
        f"records: {folder / 'records.csv'}, {folder / 'records.jsonl'}",
        *([f"paired comparisons: {comparisons}"] if comparisons else []),
        f"report:  {report_path}",
    ]
    return "\n".join(lines)


def _store_text(path: Path) -> str:
    from featstore.describe import describe_text
    from featstore.store import Store

    with Store(path) as store:
        return describe_text(store)


if __name__ == "__main__":
    main()
