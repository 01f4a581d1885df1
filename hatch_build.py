"""The wheel has one import name: what stands beside `rl_unlearn` here is below it there.

`actors` or `experiments` are names that a user's own folders have, too. In this checkout they are
top-level packages all the same; the wheel's copies import each other as `rl_unlearn.actors`.
"""

import ast
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TOP = "rl_unlearn"
BELOW = ("actors", "learner", "cluster", "experiments")


class WheelHook(BuildHookInterface):
    """Lays the packages out as a wheel has them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the moved copies to a wheel; an editable installation has the checkout's own."""
        if version == "editable":
            return
        self._folder = tempfile.mkdtemp()
        lay_out(Path(self.root), Path(self._folder, TOP))
        build_data["force_include"][str(Path(self._folder, TOP))] = TOP

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Removes them."""
        if version != "editable":
            shutil.rmtree(self._folder)


def lay_out(root: Path, out: Path) -> None:
    """Writes all packages of `root` into the one folder `out`."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(root / TOP, out, ignore=ignored)
    for name in BELOW:
        shutil.copytree(root / name, out / name, ignore=ignored)
    for file in sorted([*out.rglob("*.py"), *out.rglob("*.pyi")]):
        source = file.read_text(encoding="utf-8")
        file.write_text(moved(source, str(file.relative_to(out))), encoding="utf-8")


def moved(source: str, name: str) -> str:
    """Returns a module's source with the imports of packages that are moved; no line changes place.

    Raises ValueError for an import whose name is used with its dots: it would have to be changed
    everywhere.
    """
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in BELOW:
                    raise ValueError(f"{name}:{node.lineno}: write `from {alias.name} import ...`")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in BELOW:
            row = node.lineno - 1
            lines[row] = lines[row].replace(f"from {node.module}", f"from {TOP}.{node.module}", 1)
    return "\n".join(lines)
