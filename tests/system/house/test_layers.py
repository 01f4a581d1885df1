"""Who may import whom, read from the syntax trees: experiments -> cluster -> {actors, learner} ->
rl_unlearn.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PACKAGES, ROOT

MAY_IMPORT = {
    "rl_unlearn": {"rl_unlearn"},
    "actors": {"actors", "rl_unlearn"},
    "learner": {"learner", "rl_unlearn"},
    "cluster": {"cluster", "actors", "learner", "rl_unlearn"},
    "experiments": set(PACKAGES),
}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            yield ("." * node.level) + (node.module or ""), node.lineno


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources(package)
        for name, line in imports(ast.parse(path.read_text()))
        if (top := name.partition(".")[0]) in PACKAGES and top not in MAY_IMPORT[package]
    ]
    assert not wrong


@pytest.mark.parametrize("package", [p for p in PACKAGES if p != "cluster"])
def test_ray_is_named_only_in_cluster(package: str) -> None:
    # The V-trace kernel of RLlib is a pure function of tensors, but its import would start RLlib:
    # it is used in tests.
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources(package)
        for name, line in imports(ast.parse(path.read_text()))
        if name.partition(".")[0] == "ray"
    ]
    assert not wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_are_absolute_and_annotations_are_real(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources(package)
        for name, line in imports(ast.parse(path.read_text()))
        if name.startswith(".") or name == "__future__"
    ]
    assert not wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_what_it_is(package: str) -> None:
    assert sources(package)
    silent = [
        str(path.relative_to(ROOT))
        for path in sources(package)
        if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


def modules() -> dict[str, Path]:
    """All modules by their dotted names."""
    found = {}
    for path in (path for package in PACKAGES for path in sources(package)):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room(module: str, rooms: set[str]) -> str:
    """The folder in a package that a module is of, or the module itself where it stands in the
    package's own.
    """
    package, _, rest = module.partition(".")
    inner = f"{package}.{rest.partition('.')[0]}"
    return inner if inner in rooms else module


def test_no_room_needs_one_that_needs_it() -> None:
    known = modules()
    rooms = {".".join(name.split(".")[:2]) for name in known if name.count(".") > 1}
    needs: dict[str, set[str]] = {}
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                asked = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = (f"{node.module}.{alias.name}" for alias in node.names)
                asked = [full if full in known else node.module or "" for full in names]
            else:
                continue
            for other in asked:
                if other in known and room(other, rooms) != room(name, rooms):
                    needs.setdefault(room(name, rooms), set()).add(room(other, rooms))
    assert len(needs) > 50, "the test sees no imports"
    while needs:  # take away who needs nobody, until nobody is left
        free = {name for name, others in needs.items() if not others & needs.keys()}
        assert free, f"a circle among {', '.join(sorted(needs))}"
        needs = {name: others for name, others in needs.items() if name not in free}


def test_the_layer_check_sees_nested_imports() -> None:
    tree = ast.parse("def f():\n    import ray.remote_function\n    from cluster import program\n")
    assert [name for name, _ in imports(tree)] == ["ray.remote_function", "cluster"]
