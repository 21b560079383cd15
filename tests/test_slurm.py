"""The Slurm scripts, run under a fake sbatch and a fake Python that write down what they were given."""

import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SLURM = ROOT / "slurm"
BATCH = sorted(SLURM.glob("*.sbatch"))
SCRIPTS = [*BATCH, *sorted(SLURM.glob("*.sh"))]
BUILD = {"LIBRISPEECH_ROOT": "/data/Libri Speech", "ALIGNMENTS_ROOT": "/data/alignments", "STORE": "/scratch/store.h5"}
PROBE = {"STORE": "/scratch/store.h5", "OUTPUT": "/scratch/results"}

# Writes its arguments and what it sees of the job, then obeys FAKE: an exit status, or "wait" for TERM.
FAKE_PYTHON = f"""#!{sys.executable}
import json, os, signal, sys, time
seen = {{name: os.environ[name] for name in ("OMP_NUM_THREADS", "SLURM_JOB_ID") if name in os.environ}}
def stop(signum, frame):
    time.sleep(0.3)  # cleaning up
    open(os.environ["RECORD"] + ".cleaned", "w").close()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
with open(os.environ["RECORD"] + ".tmp", "w") as file:
    json.dump({{"args": sys.argv[1:], "env": seen, "pid": os.getpid()}}, file)
os.rename(os.environ["RECORD"] + ".tmp", os.environ["RECORD"])
if os.environ.get("FAKE") == "wait":
    time.sleep(60)
sys.exit(int(os.environ.get("FAKE", "0")))
"""

# As Slurm does: options up to the script, --export into the environment, a copy of the script in a spool folder.
FAKE_SBATCH = f"""#!{sys.executable}
import os, shutil, subprocess, sys
args, env = sys.argv[1:], dict(os.environ, SLURM_SUBMIT_DIR=os.getcwd(), SLURM_JOB_ID="7", SLURM_CPUS_PER_TASK="8")
while args[0].startswith("--"):
    option = args.pop(0)
    if option.startswith("--export=ALL,"):
        env.update(pair.split("=", 1) for pair in option.removeprefix("--export=ALL,").split(","))
spool = os.environ["SPOOL"]
shutil.copy(args[0], spool)
copy = os.path.join(spool, os.path.basename(args[0]))
sys.exit(subprocess.run(["bash", copy, *args[1:]], env=env, cwd=spool).returncode)
"""


def make_executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def cluster(tmp_path):
    """The environment of a login node: fake sbatch on the path, fake Python in the environment folder."""
    make_executable(tmp_path / "bin/sbatch", FAKE_SBATCH)
    make_executable(tmp_path / "venv/bin/python", FAKE_PYTHON)
    (tmp_path / "spool").mkdir()
    kept = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    return kept | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "RVQPROBE_VENV": str(tmp_path / "venv"),
        "RECORD": str(tmp_path / "record.json"),
        "SPOOL": str(tmp_path / "spool"),
    }


def run(arguments, env, cwd=ROOT):
    return subprocess.run(arguments, env=env, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def recorded(env):
    return json.loads(Path(env["RECORD"]).read_text(encoding="utf-8"))


def sbatch_options(path):
    return dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE))


def documented_commands(path):
    """Every sbatch command of a text, with its continuation lines joined."""
    text = re.sub(r"\\\n[# ]*", "", path.read_text(encoding="utf-8"))
    lines = [line.lstrip("# ") for line in text.splitlines()]
    return [line for line in lines if line.startswith("sbatch ") and "slurm/" in line]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_is_valid_strict_bash_without_a_path_of_ours(path):
    assert run(["bash", "-n", str(path)], dict(os.environ)).stderr == ""
    text = path.read_text(encoding="utf-8")
    assert "\nset -euo pipefail\n" in text
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert re.findall(r"(?<![\w$}>\"])/(?:home|scratch|data|work|gpfs|lustre|mnt|opt|usr)\b", code) == []


@pytest.mark.parametrize("path", BATCH, ids=lambda path: path.name)
def test_sbatch_lines_stand_before_the_first_command(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert directives
    assert max(directives) < first_command  # Slurm reads no further
    assert len(directives) == len(sbatch_options(path))


def test_resources_asked():
    build, probe = (sbatch_options(SLURM / name) for name in ("build_store.sbatch", "probe.sbatch"))
    assert (build["gres"], build["cpus-per-task"], build["mem"], build["time"]) == ("gpu:1", "8", "64G", "12:00:00")
    assert build["signal"] == "B:USR1@300"
    assert "gres" not in probe


@pytest.mark.parametrize(
    ("script", "needed"), [("build_store.sbatch", BUILD), ("probe.sbatch", PROBE)], ids=["build", "probe"]
)
def test_unset_variable_is_named_and_nothing_runs(cluster, script, needed):
    for missing in needed:
        env = cluster | {name: value for name, value in needed.items() if name != missing}
        result = run(["bash", str(SLURM / script)], env)
        assert result.returncode == 2
        assert f"{script}: {missing} is not set" in result.stderr
        assert result.stderr.count("\n") == 1
    assert not Path(cluster["RECORD"]).exists()


@pytest.mark.parametrize(
    ("script", "needed"), [("build_store.sbatch", BUILD), ("probe.sbatch", PROBE)], ids=["build", "probe"]
)
def test_wrong_folder_and_missing_environment_are_named(cluster, tmp_path, script, needed):
    result = run(["bash", str(SLURM / script)], cluster | needed, cwd=tmp_path)
    assert result.returncode == 2
    assert f"no cli.py in {tmp_path}; submit from the repository or set RVQPROBE_HOME" in result.stderr
    nowhere = str(tmp_path / "nowhere")
    result = run(["bash", str(SLURM / script)], cluster | needed | {"RVQPROBE_VENV": nowhere})
    assert result.returncode == 2
    assert f"no {nowhere}/bin/python; run slurm/setup_env.sh" in result.stderr


def test_build_gets_its_variables_and_the_further_options(cluster):
    result = run(["sbatch", str(SLURM / "build_store.sbatch"), "--st-ckpt", "a file.pt"], cluster | BUILD)
    assert result.returncode == 0, result.stderr
    assert recorded(cluster)["args"] == [
        str(ROOT / "cli.py"),
        "build-store",
        *("--librispeech-root", "/data/Libri Speech", "--alignments-root", "/data/alignments"),
        *("--split", "train-clean-100", "--output", "/scratch/store.h5", "--st-ckpt", "a file.pt"),
    ]
    run(["sbatch", str(SLURM / "build_store.sbatch")], cluster | BUILD | {"SPLIT": "dev-clean"})
    assert recorded(cluster)["args"][6:8] == ["--split", "dev-clean"]


def test_probe_gets_its_variables_and_the_job_s_cores(cluster, tmp_path):
    env = cluster | PROBE | {"RVQPROBE_HOME": str(ROOT)}
    assert run(["sbatch", str(SLURM / "probe.sbatch"), "--backend", "sklearn"], env, cwd=tmp_path).returncode == 0
    assert recorded(cluster)["args"] == [
        *(str(ROOT / "cli.py"), "probe", "/scratch/store.h5", "--output", "/scratch/results", "--backend", "sklearn")
    ]
    assert recorded(cluster)["env"] == {"OMP_NUM_THREADS": "8", "SLURM_JOB_ID": "7"}


DOCUMENTED = [(path.name, command) for path in (SLURM / "README.md", *BATCH) for command in documented_commands(path)]


def test_usage_is_documented():
    assert {name for name, _ in DOCUMENTED} == {"README.md", "build_store.sbatch", "probe.sbatch"}


@pytest.mark.parametrize(
    ("where", "command"), DOCUMENTED, ids=[f"{name}-{i}" for i, (name, _) in enumerate(DOCUMENTED)]
)
def test_documented_command_runs_and_uses_options_that_exist(cluster, where, command):
    import cli

    words = [word.replace("/path/to/gpu-env", cluster["RVQPROBE_VENV"]) for word in shlex.split(command)]
    result = run(words, cluster)
    assert result.returncode == 0, result.stderr
    _, name, *arguments = recorded(cluster)["args"]
    known = {option for parameter in cli.main.commands[name].params for option in parameter.opts}
    assert {argument for argument in arguments if argument.startswith("--")} <= known


@pytest.mark.parametrize(
    ("script", "needed"), [("build_store.sbatch", BUILD), ("probe.sbatch", PROBE)], ids=["build", "probe"]
)
def test_exit_status_is_the_program_s(cluster, script, needed):
    assert run(["bash", str(SLURM / script)], cluster | needed | {"FAKE": "1"}).returncode == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_build_s_warning_reaches_the_program_which_may_clean_up(cluster, number):
    result, record = signalled(cluster | BUILD, "build_store.sbatch", number)
    assert result.returncode == 143
    assert Path(cluster["RECORD"] + ".cleaned").exists()
    assert "submit the same command again" in result.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(record["pid"], 0)


def test_cancelled_probe_gets_the_signal_itself(cluster):
    result, record = signalled(cluster | PROBE, "probe.sbatch", signal.SIGTERM)
    assert record["pid"] == record["script_pid"]
    assert result.returncode == 143
    assert Path(cluster["RECORD"] + ".cleaned").exists()


def signalled(env, script, number):
    """Run a script whose program waits, signal the script alone as Slurm does; return it ended, and the record."""
    command = ["bash", str(SLURM / script)]
    process = subprocess.Popen(command, env=env | {"FAKE": "wait"}, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not Path(env["RECORD"]).exists():
        assert time.monotonic() < deadline, "the program never started"
        time.sleep(0.02)
    record = recorded(env)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    return subprocess.CompletedProcess(command, process.returncode, stderr=stderr), record | {"script_pid": process.pid}


# Stands for the interpreter: says it is new or old, makes environments of itself, and writes down what pip is asked.
FAKE_INTERPRETER = """#!/usr/bin/env bash
case "$*" in
    "-c "*) exit "${OLD:-0}" ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *) printf '%s\\n' "$@" >"$RECORD" ;;
esac
"""


def test_setup_installs_with_the_constraints(tmp_path):
    python = make_executable(tmp_path / "python", FAKE_INTERPRETER)
    env = {"PATH": os.environ["PATH"], "PYTHON": str(python), "RECORD": str(tmp_path / "pip")}
    env |= {"RVQPROBE_VENV": str(tmp_path / "my env")}
    result = run([str(SLURM / "setup_env.sh")], env, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    arguments = (tmp_path / "pip").read_text(encoding="utf-8").splitlines()
    assert arguments[:3] == ["-m", "pip", "install"]
    assert arguments[-4:] == ["-c", str(ROOT / "constraints.txt"), "-e", str(ROOT)]
    assert f"environment ready: {tmp_path / 'my env'}" in result.stdout


@pytest.mark.parametrize(("version", "extra"), [("12", "[cuml-cu12]"), ("13", "[cuml]")])
def test_setup_for_cuml_pins_only_the_torch_pair(tmp_path, version, extra):
    python = make_executable(tmp_path / "python", FAKE_INTERPRETER)
    env = {"PATH": os.environ["PATH"], "PYTHON": str(python), "RECORD": str(tmp_path / "pip"), "CUML": version}
    assert run([str(SLURM / "setup_env.sh")], env | {"RVQPROBE_VENV": str(tmp_path / "env")}).returncode == 0
    arguments = (tmp_path / "pip").read_text(encoding="utf-8").splitlines()
    assert arguments[-1] == f"{ROOT}{extra}"
    pins = Path(arguments[arguments.index("-c") + 1]).read_text(encoding="utf-8").splitlines()
    assert [pin.split("==")[0] for pin in pins] == ["torch", "torchaudio"]


@pytest.mark.parametrize(("change", "said"), [({"OLD": "1"}, "needs Python 3.11"), ({"CUML": "11"}, "CUML is '11'")])
def test_setup_refuses_what_cannot_work(tmp_path, change, said):
    python = make_executable(tmp_path / "python", FAKE_INTERPRETER)
    env = {"PATH": os.environ["PATH"], "PYTHON": str(python), "RVQPROBE_VENV": str(tmp_path / "env")}
    result = run([str(SLURM / "setup_env.sh")], env | change)
    assert result.returncode == 2
    assert said in result.stderr
    assert not (tmp_path / "env").exists()
