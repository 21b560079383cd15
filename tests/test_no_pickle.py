"""Nothing in the product unpickles, evaluates or hands to a shell: looked for in the syntax tree, not in the text."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN_MODULES = {
    "pickle", "_pickle", "cPickle", "pickletools", "dill", "cloudpickle", "joblib", "shelve", "marshal",
}  # fmt: skip
FORBIDDEN_BUILTINS = {"eval", "exec", "__import__"}
FORBIDDEN_CALLS = {"os.system", "os.popen", "pandas.read_pickle", "builtins.eval", "builtins.exec"}
# Calls that may read pickled objects, with the argument that forbids it.
GUARDED_CALLS = {
    "torch.load": ("weights_only", True),
    "torch.jit.load": ("weights_only", True),  # has no such argument: never allowed
    "torch.package.PackageImporter": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
    "numpy.lib.format.read_array": ("allow_pickle", False),
    "numpy.lib.npyio.NpzFile": ("allow_pickle", False),
}


def product_modules():
    return [
        ROOT / "cli.py",
        *(path for name in ("schemas", "featstore", "probes") for path in (ROOT / name).rglob("*.py")),
    ]


def full_names(tree):
    """Return what each name that a module imports stands for, e.g. ``np`` for ``numpy``."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def called(node, names):
    """Return the full dotted name of what a call calls; empty where it is no name."""
    parts, function = [], node.func
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    if not isinstance(function, ast.Name):
        return ""
    return ".".join([names.get(function.id, function.id), *reversed(parts)])


def imported(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and not node.level:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def problems(source):
    """Return what a module must not do, in words."""
    tree = ast.parse(source)
    names, found = full_names(tree), []
    for node in ast.walk(tree):
        found += [f"imports {name}" for name in imported(node) if FORBIDDEN_MODULES & set(name.split("."))]
        if isinstance(node, ast.Call):
            found += problems_of_call(node, called(node, names))
    return found


def problems_of_call(node, name):
    arguments = {keyword.arg: getattr(keyword.value, "value", "no constant") for keyword in node.keywords}
    found = [f"calls {name}"] if name in FORBIDDEN_BUILTINS | FORBIDDEN_CALLS else []
    if name.endswith("import_module") and node.args and FORBIDDEN_MODULES & {getattr(node.args[0], "value", "")}:
        found.append(f"imports {node.args[0].value}")
    if name in GUARDED_CALLS:
        argument, value = GUARDED_CALLS[name]
        if arguments.get(argument) is not value:
            found.append(f"{name} without {argument}={value}")
    elif arguments.get("allow_pickle", False) is not False:
        found.append(f"{name} with allow_pickle")
    if arguments.get("shell", False) is not False:
        found.append(f"{name} with shell")
    return found


def test_the_product_unpickles_evaluates_and_shells_nothing():
    modules = product_modules()
    assert len(modules) > 80
    found = {str(path.relative_to(ROOT)): problems(path.read_text(encoding="utf-8")) for path in modules}
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    import pickle as p",
        "from pickle import loads",
        "import joblib, numpy",
        "from sklearn.externals import joblib",
        "import multiprocessing.reduction, dill",
        "from importlib import import_module\nimport_module('pickle')",
        "eval('1')",
        "exec(text)",
        "import builtins\nbuiltins.exec(text)",
        "__import__('os')",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=flag)",
        "import torch as t\nt.load(path)",
        "from torch import load as read\nread(path)",
        "import torch\ntorch.jit.load(path)",
        "import numpy as np\nnp.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy\nnumpy.load(path, None, flag)",
        "from numpy.lib import format as npy\nnpy.read_array(file)",
        "store.read(path, allow_pickle=True)",
        "import pandas as pd\npd.read_pickle(path)",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "import subprocess\nsubprocess.Popen(text, shell=flag)",
        "import os\nos.system(text)",
        "from os import popen\npopen(text)",
    ],
)
def test_a_forbidden_thing_is_found(source):
    assert len(problems(source)) >= 1


@pytest.mark.parametrize(
    "source",
    [
        "import json, torch\ntorch.load(path, map_location='cpu', weights_only=True)",
        "import numpy as np\nnp.load(path, allow_pickle=False)\nnp.savez(path, allow_pickle=False, a=a)",
        "from numpy.lib import format as npy\nnpy.read_array(file, allow_pickle=False)",
        "model.eval()\ncursor.exec()",
        "import subprocess\nsubprocess.run([program, text], shell=False)",
        "TEXT = 'import pickle; eval(x)'  # os.system",
        "class Picklable:\n    def load(self, path): return json.load(path)",
    ],
)
def test_what_is_allowed_is_left_alone(source):
    assert problems(source) == []
