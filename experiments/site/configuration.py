"""The reference of the configuration: each key with its type, bounds, default and meaning."""

from typing import Any

from experiments import presets
from rl_unlearn.config import Config

HEAD = """# Configuration

One strict tree; unknown keys are errors. Later layers win: defaults, `--config` (a shipped name or
a YAML file), environment (`RL_UNLEARN__LEARNER__LR=1e-4`), command line (`learner.lr=1e-4`).
"""
BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "at least {} letter",
    "maxLength": "at most {} letters",
}


def page() -> str:
    """Returns the page."""
    schema = Config.model_json_schema()
    known = schema["$defs"]
    sections, alone = {}, {}
    for name, field in schema["properties"].items():
        if "$ref" in field:
            sections[name] = known[field["$ref"].rpartition("/")[2]]["properties"]
        else:
            alone[name] = field
    parts = [HEAD, "## The run\n", table("", alone)]
    for name, fields in sections.items():
        parts += [f"## {name}\n", table(f"{name}.", fields)]
    return "\n".join(parts)


def table(prefix: str, fields: dict[str, Any]) -> str:
    """Returns a table of keys."""
    rows = [
        f"| `{prefix}{name}` | {cell(kind(field))} | {cell(default(field))} "
        f"| {cell(field.get('description', ''))} |"
        for name, field in fields.items()
    ]
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows, ""])


def kind(field: dict[str, Any]) -> str:
    """Returns what a field of the schema may hold, with its bounds."""
    if "anyOf" in field:
        return " or ".join(kind(part) for part in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{word}`" for word in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    name = {"null": "`null`", "boolean": "`true`, `false`", "number": "number"}.get(
        field.get("type", ""), field.get("type", "any")
    )
    if field.get("type") == "array":
        places = field.get("prefixItems", [])
        each = dict.fromkeys(kind(part) for part in places or [field.get("items", {})])
        name = f"list of {f'{len(places)} times ' if places else ''}{', '.join(each)}"
    elif field.get("type") == "object":
        values = field.get("additionalProperties") or field.get("patternProperties") or {}
        inner = values if "type" in values else next(iter(values.values()), {})
        name = f"mapping to {kind(inner)}" if isinstance(inner, dict) else "mapping"
    return ", ".join(
        [name, *(text.format(field[key]) for key, text in BOUNDS.items() if key in field)]
    )


def default(field: dict[str, Any]) -> str:
    """Returns the default as it is written in YAML."""
    value = field.get("default")
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:.6g}`" if isinstance(value, float) else f"`{value}`"


def cell(text: str) -> str:
    """Returns text of any number of lines as one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def shipped() -> str:
    """Returns the page of the shipped configurations."""
    parts = [
        "# Shipped configurations\n",
        "`--config NAME` takes one from any folder, and `rl-unlearn config init NAME` copies it to "
        "be edited.\n",
    ]
    for name in presets.names():
        text = presets.shipped(name).read_text(encoding="utf-8")
        parts.append(f"## {name}\n\n```yaml\n{text}```\n")
    return "\n".join(parts)
