"""YAML as people write it: plain types only, of bounded size, no aliases, no key twice, and `1e-4` is a number."""

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rl_unlearn.errors import ConfigError

MAX_BYTES = 1024 * 1024


class StrictLoader(yaml.SafeLoader):
    """YAML 1.2 core scalars; anchors, aliases and repeated keys are errors."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's class attribute)

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse what lets a small file grow large, or say one thing in two places."""
        event = self.peek_event()
        if getattr(event, "anchor", None):
            raise yaml.composer.ComposerError(None, None, "anchors and aliases are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys are all different."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen if isinstance(key.value, str) else True:
                problem = f"duplicate key {key.value!r}" if isinstance(key.value, str) else "keys are plain words"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for tag, pattern, first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", list("-+.0123456789")),
):
    StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), first)


class StrictDumper(yaml.SafeDumper):
    """Quotes what the loader would otherwise read as another type."""

    yaml_implicit_resolvers: dict[str, Any] = StrictLoader.yaml_implicit_resolvers


def dump(content: Mapping[str, Any]) -> str:
    """Text that `parse` reads back to the same values."""
    return str(yaml.dump(content, Dumper=StrictDumper, sort_keys=False, allow_unicode=True))


def parse(text: str, source: str) -> Any:
    """The value of one YAML document; `source` names it in errors."""
    loader = None
    try:
        loader = StrictLoader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{source}{line}: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: not readable as YAML ({type(error).__name__}); mend or shorten it") from error
    finally:
        if loader is not None:
            loader.dispose()  # type: ignore[no-untyped-call]


def read(path: Path) -> dict[str, Any]:
    """The mapping in a file."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode()
    except OSError as error:
        raise ConfigError(f"config file {path}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"config file {path}: not UTF-8 text; save it as UTF-8") from error
    if len(data) > MAX_BYTES:
        raise ConfigError(f"config file {path}: larger than {MAX_BYTES} bytes; a config has some dozen lines")
    content = parse(text, str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"config file {path}: holds no `key: value` lines; see `rl-unlearn config show`")
    return content
