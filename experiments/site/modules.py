"""The reference of the code: public modules by their docstrings, read from the syntax trees."""

import ast
from pathlib import Path

PACKAGE = "rl_unlearn"
Function = ast.FunctionDef | ast.AsyncFunctionDef
WIDTH = 92


def pages(root: Path) -> dict[str, str]:
    """Returns a page for each room of the science, by name; the package's own modules are first."""
    top = root / PACKAGE
    rooms = [top, *sorted(path.parent for path in top.glob("*/__init__.py"))]
    return {dotted(room, root): _room(room, root) for room in rooms}


def api(root: Path) -> str:
    """Returns the page of the Python API, under the names that programs import."""
    page = _module(root / "experiments" / "api.py", root)
    return page.replace("## experiments.api\n", f"# {PACKAGE}\n", 1).replace("\n### ", "\n## ")


def dotted(path: Path, root: Path) -> str:
    """Returns the name by which a file or folder is imported."""
    return ".".join(path.relative_to(root).with_suffix("").parts)


def _room(room: Path, root: Path) -> str:
    about = _text(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))
    parts = [f"# {dotted(room, root)}\n", about]
    for path in sorted(room.glob("*.py")):
        if not path.name.startswith("_"):
            parts.append(_module(path, root))
    return "\n".join(parts)


def _module(path: Path, root: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = [f"## {dotted(path, root)}\n", _text(tree)]
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            parts.append(f"### {node.name}\n")
            parts.append(_class(node) if isinstance(node, ast.ClassDef) else _function(node))
    return "\n".join(parts)


def _class(node: ast.ClassDef) -> str:
    bases = ", ".join(map(ast.unparse, node.bases))
    parts = [_code(f"class {node.name}({bases})" if bases else f"class {node.name}"), _text(node)]
    parts += _fields(node)
    for part in node.body:
        if isinstance(part, Function) and not part.name.startswith("_"):
            parts.append(_function(part))
    return "\n".join(parts)


def _fields(node: ast.ClassDef) -> list[str]:
    """Returns a list of the annotated attributes, each with the docstring below it."""
    rows = []
    for part, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(part, ast.AnnAssign) or not isinstance(part.target, ast.Name):
            continue
        if part.target.id.startswith("_"):
            continue
        doc = _said(after)
        value = f" = {ast.unparse(part.value)}" if part.value else ""
        kind = ast.unparse(part.annotation)
        quoted = f"`` {part.target.id}: {kind}{value} ``"
        rows.append(f"- {quoted}" + (f": {' '.join(doc.split())}" if doc else ""))
    return [*rows, ""] if rows else []


def _said(node: ast.stmt | None) -> str:
    """Returns what a statement says that is nothing but a text."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return node.value.value if isinstance(node.value.value, str) else ""
    return ""


def _function(node: Function) -> str:
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    back = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    marks = "".join(f"@{ast.unparse(mark)}\n" for mark in node.decorator_list)
    line = f"{word} {node.name}({ast.unparse(node.args)}){back}"
    if len(line) > WIDTH:
        line = f"{word} {node.name}(\n{_lines(node.args)}\n){back}"
    return f"{_code(marks + line)}\n{_text(node)}"


def _lines(arguments: ast.arguments) -> str:
    """Returns arguments one a line, by splitting what is written between its outer commas."""
    parts, depth = [""], 0
    for letter in ast.unparse(arguments):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return "\n".join(f"    {part.strip()}," for part in parts)


def _code(text: str) -> str:
    return f"```python\n{text}\n```\n"


def _text(node: ast.Module | ast.ClassDef | Function) -> str:
    return f"{_examples_as_code(ast.get_docstring(node) or '')}\n"


def _examples_as_code(text: str) -> str:
    """Returns a docstring with its doctests as blocks of code; `>>>` would be a quotation."""
    blocks = text.split("\n\n")
    return "\n\n".join(
        f"```python\n{block}\n```" if block.startswith(">>> ") else block for block in blocks
    )
