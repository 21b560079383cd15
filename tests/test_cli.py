"""The command line: what its documentation promises, and the study from corpus to figures."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import click
import pytest

import cli
from probes.backends.cuml import CumlBackend
from schemas.record import check_record, field_names
from tests.probes.cuml_stand_in import stand_in
from tests.support.command_line import (
    ROOT,
    command,
    corpus_options,
    environment,
    run,
    run_process,
    run_python,
    run_well,
    tree,
)

COMMANDS = dict(cli.main.commands)
HEAVY = ("torch", "encodec", "speechtokenizer", "librosa", "numba")
EVALUATE_SOME = ("--eval-frac", "0.25")


def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def option_names(name):
    return {option for parameter in COMMANDS[name].params for option in (*parameter.opts, *parameter.secondary_opts)}


def check_parses(line):
    """Parse (and do not run) a command line of the documentation; wrong names and values raise."""
    _, _, arguments = line.partition("cli.py ")
    name, *rest = shlex.split(arguments)
    with click.Context(cli.main, info_name="cli.py", **cli.main.context_settings) as group:
        COMMANDS[name].make_context(name, rest, parent=group)


# Documentation


def test_the_issue_s_commands_are_there():
    expected = {"demo", "make-corpus", "build-store", "merge-stores", "inspect", "probe", "report", "study"}
    assert expected <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_an_example_that_parses(name):
    text = COMMANDS[name].help
    assert text.splitlines()[0].endswith(".")
    last = text.rstrip().splitlines()[-1].strip()
    assert last.startswith("Example:  python cli.py ")
    check_parses(last)
    assert "Example:" in run_well(name, "--help").stdout
    assert run_well(name, "-h").stdout == run_well(name, "--help").stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name):
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_group_help_lists_every_command_and_a_first_step():
    text = run_well("--help").stdout
    for name in COMMANDS:
        assert re.search(rf"^  {name}\s+\w", text, re.MULTILINE), name
    assert "python cli.py demo" in text


def test_version():
    from featstore import __version__

    assert run_well("--version").stdout.strip() == f"rvqprobe, version {__version__}"


def test_readme_names_every_command_and_none_that_is_not_there():
    section = readme().split("\n## Commands\n")[1].split("\n## ")[0]
    rows = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`([\w-]+)`", row)]
    assert sorted(named) == sorted(COMMANDS)


def test_options_that_the_readme_gives_to_a_command_are_its_own():
    seen = 0
    for line in readme().splitlines():
        commands = [name for name in re.findall(r"`([\w-]+)`", line.split(" | ")[0]) if name in COMMANDS]
        if line.startswith("| `") and commands:
            options = set().union(*map(option_names, commands))
            named = re.findall(r"--[a-z0-9-]+", line)
            assert set(named) <= options, line
            seen += len(named)
    assert seen >= 10


def test_every_option_in_the_readme_exists():
    known = set().union(*map(option_names, COMMANDS)) | {"--help"}
    of_commands = re.sub(r"^python benchmarks/.*$", "", readme(), flags=re.MULTILINE)
    assert options_in(of_commands) <= known


def test_every_benchmark_in_the_readme_exists_and_has_the_options_it_is_given():
    lines = re.findall(r"^python (benchmarks/\w+\.py)(.*)$", readme(), re.MULTILINE)
    assert lines
    for script, arguments in lines:
        own = set(re.findall(r'add_argument\("(--[a-z-]+)"', (ROOT / script).read_text(encoding="utf-8")))
        assert options_in(arguments) <= own, script


def options_in(text):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text))


def test_commands_in_the_readme_parse():
    lines = [
        line.split("#")[0].strip()
        for block in re.findall(r"```\n(.*?)```", readme(), re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
        if "cli.py " in line
    ]
    assert len(lines) >= 3
    for line in lines:
        check_parses(line)


def test_a_wrong_example_would_be_found():
    with pytest.raises(click.NoSuchOption):
        check_parses("python cli.py probe store.h5 --output results --colour red")
    with pytest.raises(click.BadParameter):
        check_parses("python cli.py probe store.h5 --output results --backend gpu")


# Start


def test_help_takes_less_than_three_tenths_of_a_second():
    best_s = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        subprocess.run(command("--help"), capture_output=True, check=True, env=environment())
        best_s = min(best_s, time.perf_counter() - begin)
    assert best_s < 0.3


@pytest.mark.parametrize("arguments", [["--help"], ["probe", "--help"], ["build-store", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = f"import sys, cli\ncli.main({arguments!r}, standalone_mode=False)\nprint('loaded', *sys.modules)"
    ended = run_python(code)
    assert ended.exit_code == 0, ended.stderr
    loaded = ended.stdout.splitlines()[-1].split()
    assert "click" in loaded
    assert not set(loaded) & {*HEAVY, "numpy", "h5py", "scipy", "sklearn", "matplotlib", "soundfile", "textgrid"}


# Usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-command"], "No such command 'no-such-command'"),
        (["probe", "a.h5"], "Missing option '--output'"),
        (["probe", "--output", "r"], "Missing argument 'STORES...'"),
        (["probe", "a.h5", "--output", "r", "--colour", "red"], "No such option '--colour'"),
        (["probe", "a.h5", "--output", "r", "--backend", "gpu"], "'gpu' is not one of"),
        (["probe", "a.h5", "--output", "r", "--layer", "0"], "0 is not in the range x>=1"),
        (["probe", "a.h5", "--output", "r", "--tol", "0"], "not in the range"),
        (["probe", "a.h5", "--output", "r", "--representation", "sum"], "'sum' is not one of"),
        (["probe", "a.h5", "--output", "r", "--max-train-frames", "0"], "0 is not in the range x>=1"),
        (["probe", "a.h5", "--output", "r", "--max-train-frames", "9"], "codeword probes are fitted from counts"),
        (
            ["probe", "a.h5", "--output", "r", "--representation", "concat", "--n-permutations", "9"],
            "--n-permutations: the mutual information is that of single codes",
        ),
        (
            ["probe", "a.h5", "--output", "r", "--representation", "latent", "--layer", "1"],
            "--layer: latents are the encoder's output before all layers",
        ),
        (
            ["study", "--librispeech-root", "x", "--alignments-root", "y", "--max-train-frames", "9"],
            "codeword probes are fitted from counts",
        ),
        (["build-store", "--librispeech-root", "x"], "Missing option"),
        (
            ["build-store", "--librispeech-root", "x", "--alignments-root", "y", "--output", "z", "--shard", "4/3"],
            "I/N",
        ),
        (["build-store", "--librispeech-root", "x", "--alignments-root", "y", "--output", "z", "--shard", "a"], "I/N"),
        (["merge-stores", "--output", "m.h5"], "Missing argument"),
        (["make-corpus", "out", "--speakers", "0"], "not in the range"),
    ],
)
def test_wrong_usage_ends_with_2(arguments, message):
    ended = run(*arguments)
    assert ended.exit_code == 2
    assert message in ended.stderr
    assert ended.stdout == ""


def test_options_may_be_spelt_with_underscores(tiny_corpus, tmp_path):
    for join in ("-", "_"):
        options = [f"--librispeech{join}root", tiny_corpus.librispeech_root]
        options += [f"--alignments{join}root", tiny_corpus.alignments_root, f"--max{join}utterances", "3"]
        options += [f"--dry{join}run", f"--eval{join}frac=0.5", "--codec", "melrvq"]
        assert "from            3 of 24" in run_well("build-store", *options, "--output", tmp_path / "s.h5").stdout


def test_lists_of_codecs_and_backends():
    codecs = run_well("list-codecs").stdout
    assert re.search(r"^melrvq +8 x 1024, dim +80, 50 Hz", codecs, re.MULTILINE)
    assert re.search(r"^encodec +8 x 1024, dim +128, 75 Hz", codecs, re.MULTILINE)
    assert re.search(r"^speechtokenizer +8 x 1024, dim +1024, 50 Hz", codecs, re.MULTILINE)
    backends = run_well("list-backends").stdout
    assert re.search(r"^exact +usable on cpu \(numpy [\d.]+, scipy [\d.]+\)$", backends, re.MULTILINE)
    assert re.search(r"^sklearn +usable on cpu \(scikit-learn [\d.]+", backends, re.MULTILINE)
    assert re.search(r"^cuml +(usable on|not usable: )", backends, re.MULTILINE)


@pytest.mark.parametrize(
    ("library", "expected"),
    [
        ({"n_devices": 2}, r"cuml +usable on Stand-in GPU \(GPU 0 of 2, .*\) \(cuml 26\.10, cupy 14\.0\)\n"),
        ({"gpu": False}, r"cuml +not usable: cuML is installed, but no usable NVIDIA GPU was found\n"),
        ({"error": RuntimeError("cudaErrorInsufficientDriver")}, r"cuml +not usable: the NVIDIA driver is too old.*\n"),
        (None, r"cuml +not usable: cuML cannot be imported \(no cuml\)\n +install: pip install 'rvqprobe\[cuml\]'.*\n"),
    ],
)
def test_the_line_of_cuml_says_what_there_is(monkeypatch, library, expected):
    def missing(name):
        raise ImportError(f"no {name}")

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    given = missing if library is None else stand_in(**library)
    monkeypatch.setattr(CumlBackend, "__init__", lambda self: setattr(self, "_import", given))
    assert re.search(rf"^{expected}\Z", run_well("list-backends").stdout, re.MULTILINE)


# The study


def test_corpus_to_verified_store(tmp_path):
    """The first commands of a user, as processes: make-corpus prints the options that build-store wants."""
    made = run_process("make-corpus", tmp_path / "corpus", "--speakers", 2, "--utterances", 4)
    assert made.exit_code == 0, made.stderr
    assert made.stderr == ""
    options = shlex.split(made.stdout)
    store = tmp_path / "store.h5"
    built = run_process("build-store", *options, *EVALUATE_SOME, "--codec", "melrvq", "--output", store)
    assert built.exit_code == 0, built.stderr
    assert built.stdout.startswith(f"{store} ")
    assert "1 shard built, 0 reused, 0 utterances skipped" in built.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "corpus", "split.json", "store.h5", "store.h5.weights",
    ]  # fmt: skip
    assert "every byte checked" in run_well("verify", store, "--full").stdout
    assert run_well("verify", store).stdout == f"{store}: follows the format\n"
    again = run_well("make-corpus", tmp_path / "corpus", "--speakers", 2, "--utterances", 4)
    assert again.stdout == made.stdout


def test_export_to_zarr_and_back(melrvq_store, tmp_path):
    digest = json.loads(run_well("inspect", melrvq_store, "--json").stdout)["content_digest"]
    first, second = tmp_path / "store.zarr", tmp_path / "again.h5"
    exported = run_well("export", melrvq_store, first, "--layout", "factored")
    assert re.search(r"format 1\.0, Zarr 3, \d+ files\)", exported.stdout)
    assert exported.stdout == run_well("inspect", first).stdout
    again = run_well("export", melrvq_store, first, "--layout", "factored")
    assert "is already this export; nothing to do" in again.stderr
    assert again.stdout == exported.stdout
    assert run("export", melrvq_store, first, "--layout", "dense").error.endswith("remove it or choose another output")
    run_well("export", first, second, "--embeddings", "dense", "--compression", "gzip", "--quiet")
    for path in (first, second):
        found = json.loads(run_well("inspect", path, "--json").stdout)
        assert found["content_digest"] == digest
        assert "every byte checked" in run_well("verify", path, "--full").stdout
    assert sorted(os.listdir(tmp_path)) == ["again.h5", "store.zarr"]


def test_inspect(melrvq_store):
    ended = run_well("inspect", melrvq_store, "--json")
    assert ended.stderr == ""
    found = json.loads(ended.stdout)
    assert found["format_version"] == "1.0"
    assert found["complete"] is True
    assert re.fullmatch("[0-9a-f]{64}", found["content_digest"])
    assert (found["n_utterances"], found["n_skipped"], found["n_speakers"]) == (24, 0, 3)
    codec = found["codecs"]["melrvq"]
    assert (codec["n_layers"], codec["dim"], codec["frame_rate_hz"]) == (8, 80, 50.0)
    assert (codec["layout"], codec["weights"]) == ("dense", "untrained")  # the format's word
    assert codec["n_frames"] > 2000
    assert 0 < codec["bytes"] < melrvq_store.stat().st_size
    text = run_well("inspect", melrvq_store).stdout
    assert found["content_digest"] in text
    assert "codebooks fitted to the corpus" in text
    assert "untrained" not in text.lower()
    assert f"{codec['n_frames']:,} frames at 50 Hz" in text


def records_of(folder):
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def test_exact_probing_loads_nothing_heavy_to_its_end(exact_probing):
    loaded = set(exact_probing[1].stdout.splitlines()[-1].split())
    assert {"numpy", "h5py", "probes.runner", "matplotlib"} <= loaded
    assert not loaded & {*HEAVY, "torchaudio", "textgrid", "soundfile"}


def test_probe_writes_the_files_that_others_script_against(exact_probing):
    folder, ended = exact_probing
    records = records_of(folder)
    assert len(records) == 24
    for record in records:
        check_record(record)
        assert record["backend_used"] == record["backend_asked"] == "exact"
        assert (folder / record["probe_file"]).is_file()
        assert Path(record["probe_file"]).parent == Path("probes")
    with (folder / "records.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == field_names()
    assert [row["probe_key"] for row in rows] == [record["probe_key"] for record in records]
    figures = {f"{task}_probing.{kind}" for task in ("phoneme", "speaker", "pitch") for kind in ("png", "pdf")}
    assert {path.name for path in (folder / "figures").iterdir()} == figures
    assert all((folder / "figures" / name).stat().st_size > 5000 for name in figures)
    assert (folder / "report.md").read_text().startswith("# What each RVQ layer encodes")
    for name in ("records.jsonl", "records.csv", "report.md", "phoneme_probing.png"):
        assert name in ended.stdout
    assert "24 probes: 24 converged" in ended.stdout


def test_report_is_made_from_the_records_alone(exact_probing, tmp_path):
    folder, ended = exact_probing
    (tmp_path / "records.jsonl").write_bytes((folder / "records.jsonl").read_bytes())
    made = run_well("report", tmp_path)
    assert made.stderr == ""
    assert made.stdout.splitlines()[:-4] == ended.stdout.splitlines()[:-5]
    assert (tmp_path / "report.md").read_bytes() == (folder / "report.md").read_bytes()
    assert (tmp_path / "figures" / "pitch_probing.pdf").is_file()
    (tmp_path / "records.jsonl").write_text((folder / "records.jsonl").read_text().splitlines()[2] + "\n")
    assert json.loads(run_well("report", tmp_path, "--json").stdout) == records_of(folder)[2:3]


def test_rerun_repeats_nothing_and_json_is_the_records(exact_probing, melrvq_store):
    folder, _ = exact_probing
    before = (folder / "records.jsonl").read_bytes()
    options = ["--layer", "1", "--task", "speaker", "--task", "pitch", "--backend", "exact"]
    ended = run_well("probe", melrvq_store, "--output", folder, *options, "--json")
    assert (folder / "records.jsonl").read_bytes() == before
    wanted = [r for r in records_of(folder) if r["layer"] == 1 and r["task"] != "phoneme"]
    assert json.loads(ended.stdout) == wanted
    assert "2 of 2 probes were recorded before" in ended.stderr
    assert run_well("probe", melrvq_store, "--output", folder, *options, "--quiet").stderr == ""


CHANGING = ("probe_key", "created", "seconds", "probe_file", "backend_asked", "fallback_reason")


def test_cuml_without_a_gpu_gives_sklearn_s_records_and_one_note(melrvq_store, tmp_path):
    from probes.backends.registry import backend

    if backend("cuml").availability().available:
        pytest.skip("a GPU with cuML is here: there is no fallback to test")
    options = ["--layer", "1", "--layer", "2", "--json"]
    found = {}
    for name in ("sklearn", "cuml"):
        ended = run_well("probe", melrvq_store, "--output", tmp_path / name, "--backend", name, *options)
        found[name] = json.loads(ended.stdout)
        notes = [line for line in ended.stderr.splitlines() if "falling back" in line]
        assert len(notes) == (name == "cuml")
    assert {(r["backend_asked"], r["backend_used"]) for r in found["cuml"]} == {("cuml", "sklearn")}
    assert all(r["fallback_reason"] for r in found["cuml"])
    assert not any(r["fallback_reason"] for r in found["sklearn"])
    fitted, fallen = ([without(r, CHANGING) for r in records] for records in found.values())
    assert fallen == fitted
    assert len(fitted) == 6


def test_probing_layers_together_by_either_spelling(melrvq_store, tmp_path):
    for name, join in (("cumulative", "-"), ("concat", "_")):
        options = ["--representation", name, f"--max{join}train{join}frames", 500, "--layer", 2, "--task", "phoneme"]
        ended = run_well("probe", melrvq_store, "--output", tmp_path, *options, "--quiet")
        assert re.search(rf"melrvq \(log-mel baseline\), {name}:.*\n(.*\n)+ +1\.\.2 +0\.", ended.stdout)
        assert ended.stderr == ""
        report = (tmp_path / "report.md").read_text()
        assert "| max_train_frames | 500 |" in report
    records = records_of(tmp_path)
    assert [(r["representation"], r["layer"], r["n_train"]) for r in records] == [
        ("cumulative", 2, 500),
        ("concat", 2, 500),
    ]
    together = run_well("report", tmp_path).stdout
    assert "cumulative: 50 frames/s" in together
    assert "concat: 50 frames/s" in together


def test_latents_that_the_store_does_not_have(melrvq_store, tmp_path):
    ended = run("probe", melrvq_store, "--output", tmp_path / "out", "--representation", "latent")
    assert ended.error.startswith(f"{melrvq_store}:/codecs/melrvq/latents: expected the encoder's output")
    assert ended.error.endswith(
        "use --representation codeword, cumulative or concat, or --codec with a codec that has it"
    )
    assert not (tmp_path / "out").exists()


def test_require_gpu_without_one_is_an_error(melrvq_store, tmp_path):
    from probes.backends.registry import backend

    if backend("cuml").availability().available:
        pytest.skip("a GPU with cuML is here: there is nothing to refuse")
    output = tmp_path / "results"
    ended = run("probe", melrvq_store, "--output", output, "--backend", "cuml", "--require-gpu")
    assert ended.error.startswith("--require-gpu: cuml cannot be used")
    assert not output.exists()


def without(record, names):
    return {name: value for name, value in record.items() if name not in names}


def test_study_is_build_probe_and_report(tiny_corpus, melrvq_weights, tmp_path):
    options = ["--codec", "melrvq", "--weights", f"melrvq={melrvq_weights}", *EVALUATE_SOME, "--embeddings", "factored"]
    chosen = ["--layer", "1", "--task", "pitch", "--output", tmp_path / "out", "--json"]
    ended = run_well("study", *corpus_options(tiny_corpus), *options, *chosen)
    (record,) = json.loads(ended.stdout)
    assert (record["codec"], record["layer"], record["task"], record["weights"]) == ("melrvq", 1, "pitch", "checkpoint")
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "store.h5", "split.json", "records.jsonl", "records.csv", "probes", "figures", "report.md",
    }  # fmt: skip
    assert "1 shard built" in ended.stderr
    description = json.loads(run_well("inspect", tmp_path / "out" / "store.h5", "--json").stdout)
    assert description["codecs"]["melrvq"]["layout"] == "factored"


# Building


def test_finished_store_is_found_and_quiet_is_silent(melrvq_store, tiny_corpus):
    before = melrvq_store.stat()
    options = [*corpus_options(tiny_corpus), *EVALUATE_SOME, "--codec", "melrvq", "--output", melrvq_store]
    loud, silent = run_well("build-store", *options), run_well("build-store", *options, "--quiet")
    assert "already built from these inputs" in loud.stderr
    assert silent.stderr == ""
    assert silent.stdout == loud.stdout == run_well("inspect", melrvq_store).stdout
    assert (melrvq_store.stat().st_ino, melrvq_store.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_dry_run_shows_the_plan_and_writes_nothing(tiny_corpus, tmp_path):
    output = tmp_path / "deep" / "store.h5"
    ended = run_well("build-store", *corpus_options(tiny_corpus), "--codec", "melrvq", "--output", output, "--dry-run")
    assert f"would build     {output} (dense, zstd)" in ended.stdout
    assert "24 of 24 utterances" in ended.stdout
    assert "melrvq" in ended.stdout
    assert ended.stderr == ""
    assert tree(tmp_path) == {}


def test_slices_of_a_job_array_merge_to_the_same_store(melrvq_store, melrvq_weights, tiny_corpus, tmp_path):
    """Slices share the untrained weights that lie beside the store, and the whole has the digest of one build."""
    output = tmp_path / "store.h5"
    weights = tmp_path / "store.h5.weights"
    weights.mkdir()
    for path in melrvq_weights.parent.iterdir():
        (weights / path.name).write_bytes(path.read_bytes())
    options = [*corpus_options(tiny_corpus), *EVALUATE_SOME, "--codec", "melrvq", "--output", output]
    parts = []
    for place in ("2/2", "1/2"):
        ended = run_well("build-store", *options, "--shard", place)
        parts.append(ended.stdout.strip())
        assert "merge-stores" in ended.stderr
    assert not output.exists()
    alone = run_well("merge-stores", parts[0], "--output", tmp_path / "half.h5", "--quiet")
    assert "1 shard of 2 not given (1); the merged store lacks their utterances" in alone.stderr
    merged = run_well("merge-stores", *parts, "--output", output)
    assert "not given" not in merged.stderr
    assert merged.stdout.startswith(f"{output} ")
    digests = {json.loads(run_well("inspect", p, "--json").stdout)["content_digest"] for p in (output, melrvq_store)}
    assert len(digests) == 1
    before = output.read_bytes()
    assert (
        "already merged from these parts; nothing to do" in run_well("merge-stores", *parts, "--output", output).stderr
    )
    assert "stands there already" in run("merge-stores", parts[0], "--output", output).error
    assert output.read_bytes() == before


# The process


def test_a_reader_that_has_gone_is_no_traceback(melrvq_store):
    process = subprocess.Popen(
        command("inspect", melrvq_store), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    process.stdout.close()
    stderr = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() == 1
    assert stderr == ""


def test_the_process_has_the_exit_codes_of_the_promise(melrvq_store, tmp_path):
    assert run_process("inspect", melrvq_store).exit_code == 0
    assert "expected a store, found no file" in run_process("inspect", tmp_path / "absent.h5").error
    assert run_process("inspect").exit_code == 2


def test_signal_handlers_are_put_back():
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    run_well("list-codecs")
    assert [signal.getsignal(number) for number in numbers] == before
