"""YAML as people write it: plain types, bounded size and depth, no tags, no aliases, no key twice,
`1e-4` a number.
"""

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rl_unlearn.errors import ConfigError

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 20


class StrictLoader(yaml.SafeLoader):
    """A loader of YAML 1.2 core scalars.

    Tags, anchors, aliases, repeated keys and deep nesting are errors.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's class attribute)
    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuses what makes a small file large or deep, repeats itself or names its own type."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        problem = None
        if getattr(event, "anchor", None):
            problem = "anchors and aliases are not allowed"
        elif getattr(event, "tag", None):
            problem = (
                f"tags such as {event.tag.replace('tag:yaml.org,2002:', '!!')} are not allowed"
            )
        elif self._depth > MAX_DEPTH:
            problem = f"nested more than {MAX_DEPTH} levels deep"
        if problem:
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_scalar(self, node: Any) -> Any:
        """Returns the text; half of a surrogate pair, which could not be written again, is none."""
        text = super().construct_scalar(node)
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise yaml.constructor.ConstructorError(
                None, None, "half of a surrogate pair", node.start_mark
            )
        return text

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """Returns a mapping whose keys are all different."""
        seen: set[str] = set()
        for key, _ in node.value:
            problem = None
            if not isinstance(key.value, str):
                problem = "keys are plain words"
            elif key.tag != "tag:yaml.org,2002:str":
                problem = f"keys are plain words: {key.value!r} needs quotes"
            elif key.value in seen:
                problem = f"duplicate key {key.value!r}"
            if problem:
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for tag, pattern, first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        list("-+.0123456789"),
    ),
):
    StrictLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"), first
    )


class StrictDumper(yaml.SafeDumper):
    """A dumper that quotes what the loader would otherwise read as another type."""

    yaml_implicit_resolvers: dict[str, Any] = StrictLoader.yaml_implicit_resolvers


def dump(content: Mapping[str, Any]) -> str:
    """Returns text that `parse` reads back to the same values."""
    return str(yaml.dump(content, Dumper=StrictDumper, sort_keys=False, allow_unicode=True))


def parse(text: str, source: str) -> Any:
    """Returns the value of one YAML document; `source` names it in errors."""
    loader = None
    try:
        loader = StrictLoader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{source}{line}: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{source}: not readable as YAML ({type(error).__name__}); mend or shorten it"
        ) from error
    finally:
        if loader is not None:
            loader.dispose()


def read(path: Path) -> dict[str, Any]:
    """Returns the mapping in a file."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode()
    except OSError as error:
        raise ConfigError(f"config file {path}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"config file {path}: not UTF-8 text; save it as UTF-8") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(
            f"config file {path}: larger than {MAX_BYTES} bytes; a config has some dozen lines"
        )
    content = parse(text, str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"config file {path}: holds no `key: value` lines; see `rl-unlearn config show`"
        )
    return content
