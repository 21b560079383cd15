"""Imports point one way, schemas <- featstore <- probes <- cli, and each layer stays as light as it promises."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("schemas", "featstore", "probes", "cli")
OUTSIDE = ("tests", "benchmarks", "slurm")  # they use the layers; no layer uses them
# A module named in a string (for import_module) is an import too.
_MODULE_NAME = re.compile(rf"({'|'.join(LAYERS + OUTSIDE)})(\.[a-z_0-9]+)+")


def imported_layers(source, package):
    """Return (line, top-level name) of everything that `source`, a module of `package`, imports, at any depth."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, package if node.level else node.module.split(".")[0]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _MODULE_NAME.fullmatch(node.value):
            yield node.lineno, node.value.split(".")[0]


def upward_imports(source, package):
    """Return the lines of a module that import a layer above its own, or what stands outside."""
    allowed = LAYERS[: LAYERS.index(package) + 1]
    return [
        f"line {line} imports {name}"
        for line, name in imported_layers(source, package)
        if name in LAYERS + OUTSIDE and name not in allowed
    ]


def modules_of(package):
    return [ROOT / "cli.py"] if package == "cli" else sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", LAYERS)
def test_imports_point_one_way(package):
    modules = modules_of(package)
    assert modules
    wrong = {
        str(path.relative_to(ROOT)): found
        for path in modules
        if (found := upward_imports(path.read_text(encoding="utf-8"), package))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("schemas", "import featstore"),
        ("schemas", "from featstore.store import Store"),
        ("featstore", "def build():\n    from probes.runner import run_probes"),
        ("featstore", "if True:\n    import numpy, probes.runner as r"),
        ("featstore", "NAMES = {'x': 'probes.backends.exact'}"),
        ("probes", "import cli"),
        ("probes", "from tests.support import stores"),
    ],
)
def test_an_upward_import_is_found(package, source):
    assert len(upward_imports(source, package)) == 1


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("schemas", "import json\nfrom schemas.errors import SchemaError"),
        ("featstore", "from schemas.store import store_spec\nfrom .errors import StoreError"),
        ("probes", "from featstore.store import Store\nFOLDER = 'probes'"),
        ("cli", "from probes.runner import run_probes"),
    ],
)
def test_an_import_downwards_is_allowed(package, source):
    assert upward_imports(source, package) == []


def loaded_after(code):
    """Return the modules that a fresh interpreter has loaded after `code`."""
    program = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_schemas_open_no_file_format_and_no_network():
    code = (
        "from schemas.record import check_record, empty_record\n"
        "from schemas.store import Contents, check_contents, check_store_version\n"
        "assert check_contents(Contents({}, {}), {})\n"
        "check_store_version('rvqprobe-store', '1.0', 'here')\n"
        "try:\n    check_record(empty_record())\nexcept ValueError:\n    pass\n"
        "else:\n    raise AssertionError\n"
    )
    loaded = loaded_after(code)
    assert "fastjsonschema" in loaded
    assert not loaded & {"h5py", "torch", "numpy", "featstore", "probes", "cli"}


@pytest.mark.parametrize("module", ["featstore.build", "featstore.merge", "featstore.verify", "featstore.describe"])
def test_building_blocks_import_without_torch(module):
    assert not loaded_after(f"import {module}") & {"torch", "librosa", "encodec", "speechtokenizer", "probes"}


def test_the_runner_imports_without_audio_or_torch():
    loaded = loaded_after("import probes.runner, probes.figures, probes.report")
    assert not loaded & {"torch", "librosa", "numba", "encodec", "speechtokenizer", "soundfile", "sklearn"}
