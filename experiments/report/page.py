"""A page from its template: one HTML file that fetches nothing, with style and script in it, and a
policy that admits these alone.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from experiments.report import charts, confusion, run_view, tiles

PARTS = Path(__file__).parent


def render(template: str, content: Mapping[str, Any], folders: Sequence[Path] = ()) -> str:
    """Returns a page that extends `page.html.j2`; templates lie here or in one of `folders`."""
    environment = Environment(
        loader=FileSystemLoader([PARTS, *folders]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "uri": tiles.uri}
    environment.globals |= {"charts": charts, "confusion": confusion, "run_view": run_view}
    style, script = (
        (PARTS / name).read_text(encoding="utf-8") for name in ("report.css", "report.js")
    )
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src "
        f"{_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    shared = {"policy": policy, "style": style, "script": script}
    return environment.get_template(template).render(shared | dict(content))


def _hash(text: str) -> str:
    """Returns a content-security-policy source that admits exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _figure(value: float) -> str:
    return f"{value:.1f}".replace("-", "−")
