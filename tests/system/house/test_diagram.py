"""The drawing of a trajectory's path in docs/architecture.md has the arrows of the imports."""

import ast
import re

from conftest import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()


def drawn() -> tuple[dict[str, str], set[tuple[str, str]]]:
    """The nodes, file by name, and the arrows between files."""
    (block,) = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)
    nodes = dict(re.findall(r"(\w+)\[\"?([\w/]+\.py)\"?\]", block))
    arrows = set()
    for source, targets in re.findall(r"^ *(\w+) --> (.*)$", block, re.MULTILINE):
        arrows |= {(nodes[source], nodes[target]) for target in targets.split(" & ")}
    return nodes, arrows


def imported(files: set[str]) -> set[tuple[str, str]]:
    """The arrows between these files by their imports."""
    modules = {file.removesuffix(".py").replace("/", "."): file for file in files}
    arrows = set()
    for file in files:
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if not isinstance(node, ast.ImportFrom):
                continue
            names = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            arrows |= {(file, modules[name]) for name in names & modules.keys()}
    return arrows


def test_the_drawing_has_the_arrows_of_the_imports() -> None:
    nodes, arrows = drawn()
    files = set(nodes.values())
    assert len(files) == len(nodes) > 15
    assert arrows == imported(files)


def test_every_step_of_the_walk_names_a_function_where_it_is() -> None:
    walk = PAGE.partition("## The path of one trajectory")[2].partition("\n## ")[0]
    steps = re.findall(r"^\| \d+ \| `([\w/]+\.py)` \| `([\w.]+)`", walk, re.MULTILINE)
    assert len(steps) > 10
    for file, name in steps:
        tree = ast.parse((ROOT / file).read_text())
        scope: list[ast.stmt] = tree.body
        for part in name.split("."):
            (found,) = (
                node
                for node in scope
                if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                and node.name == part
            )
            scope = found.body
