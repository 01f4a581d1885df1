"""Nothing that was read is ever run: a scan of the syntax trees, bandit beside it, and hostile
files.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PACKAGES, ROOT

FORBIDDEN_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_CALLS = {
    "torch.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "os.system",
    "os.popen",
    "hub.load",
    "torch.hub.load",
}
HUB_REVISION = "B615"  # the revision is the user's choice: model.revision
FORBIDDEN_TRUE = {"allow_pickle", "shell", "trust_remote_code"}


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def offences(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        for name in names:
            if name.partition(".")[0] in FORBIDDEN_MODULES or name.startswith("ray.data"):
                yield node.lineno, f"import {name}"
        if not isinstance(node, ast.Call):
            continue
        name = dotted(node.func)
        if name in FORBIDDEN_NAMES or name in FORBIDDEN_CALLS:
            yield node.lineno, name
        for keyword in node.keywords:
            if keyword.arg in FORBIDDEN_TRUE and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            ):
                yield node.lineno, f"{name}({keyword.arg}=...)"
            if keyword.arg == "use_safetensors" and not (
                isinstance(keyword.value, ast.Constant) and keyword.value.value is True
            ):
                yield node.lineno, f"{name}(use_safetensors=...)"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_call_runs_what_it_reads(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {what}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, what in offences(ast.parse(path.read_text()))
    ]
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(path)",
        "yaml.load(text, Loader=x)",
        "eval(text)",
        "subprocess.run(line, shell=True)",
        "np.load(path, allow_pickle=True)",
        "P.from_pretrained(path, trust_remote_code=flag)",
        "P.from_pretrained(path, use_safetensors=False)",
        "import ray.data",
    ],
)
def test_the_scan_finds(line: str) -> None:
    assert list(offences(ast.parse(line)))


def test_models_load_safetensors_from_this_machine_without_remote_code() -> None:
    calls = [
        (path, {keyword.arg for keyword in call.keywords})
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if ROOT / "experiments" / "canvas"
        not in path.parents  # makes and measures the shipped files as anybody would load them
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "from_pretrained"
    ]
    assert {path.name for path, _ in calls} >= {"pipeline.py", "classifier_folders.py", "tokens.py"}
    assert all("local_files_only" in given for _, given in calls), calls
    weighty = [
        given for path, given in calls if path.name in ("pipeline.py", "classifier_folders.py")
    ]
    assert sum("use_safetensors" in given for given in weighty) == 3, (
        "a pipeline, its networks, a classifier"
    )
    assert sum("trust_remote_code" in given for given in weighty) == 3, (
        "a pipeline, a classifier and its processor"
    )


@pytest.mark.slow
def test_bandit_finds_nothing_of_medium_weight() -> None:
    scan = subprocess.run(
        [sys.executable, "-m", "bandit", "-q", "-r", "-ll", "--skip", HUB_REVISION, *PACKAGES],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert scan.returncode == 0, scan.stdout


def test_no_weights_in_the_repository_need_unpickling() -> None:
    pickled = [
        path for package in PACKAGES for path in (ROOT / package).rglob("*")
        if path.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npy", ".npz"}
    ]  # fmt: skip
    assert not pickled


def test_no_secret_reaches_the_configuration() -> None:
    from experiments import settings

    words = {"token", "password", "secret", "key", "credential"}
    assert not [
        name for name in settings.fields() if words & set(name.replace(".", "_").split("_"))
    ]


def test_yaml_builds_no_objects(tmp_path: Path) -> None:
    from experiments import strict_yaml
    from rl_unlearn.errors import ConfigError

    for text in (
        "a: !!python/object/apply:os.getcwd []",
        "a: !!python/name:os.system",
        "!!python/module:os x",
    ):
        file = tmp_path / "c.yaml"
        file.write_text(text)
        with pytest.raises(ConfigError):
            strict_yaml.read(file)
