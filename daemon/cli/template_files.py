"""Templates as files: TOML, YAML, JSON or plain text, one by one or a folder of them."""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preble.daemon.errors import ConfigError

if TYPE_CHECKING:
    from preble.daemon.wire.templates import TemplateBody, TemplateCreate, TemplateVersion

FORMATS: Mapping[str, str] = {
    ".toml": "toml",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".json": "json",
    ".txt": "text",
}
"""By the ends of files' names. A folder's other files are let be; one that is named is plain text."""

_BREAKS = frozenset("\x85\u2028\u2029")
"""YAML reads them as other line breaks, except between quotes and escaped."""


def read_file(path: Path, file_format: str | None = None, name: str | None = None) -> "TemplateCreate":
    """The template in a file, called `name`, or as it says, or as the file. Raises `ConfigError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    return parsed(text, file_format or FORMATS.get(path.suffix, "text"), str(path), name, path.stem)


def parsed(text: str, file_format: str, source: str, name: str | None, otherwise: str | None) -> "TemplateCreate":
    """The template in a text of this format, which is from `source`. Raises `ConfigError`."""
    import msgspec

    from preble.daemon.wire.templates import TemplateCreate

    try:
        fields = _READERS[file_format](text)
    except (ValueError, RecursionError) as error:  # what every reader raises for what it cannot read
        raise ConfigError(f"{source}: this is no {file_format}: {error}") from error
    if not isinstance(fields, dict):
        raise ConfigError(f"{source}: a template is a table of fields: `text` or `messages`, and others")
    called = name or fields.get("name") or otherwise
    if called is None:
        raise ConfigError(f"{source}: has no `name`; name it with --name")
    try:
        return msgspec.convert({**fields, "name": called}, TemplateCreate)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{source}: {error}") from error


def read_folder(folder: Path) -> "dict[Path, TemplateCreate]":
    """Every template in a folder. Raises `ConfigError` for the first that is none, and for two of one name."""
    found = {path: read_file(path) for path in sorted(folder.iterdir()) if path.is_file() and path.suffix in FORMATS}
    by_name: dict[str, Path] = {}
    for path, template in found.items():
        if template.name in by_name:
            raise ConfigError(f"{path}: {by_name[template.name]} has the name {template.name!r} too")
        by_name[template.name] = path
    return found


def write_file(folder: Path, template: "TemplateVersion") -> Path:
    """Write a version as YAML, so that reading it gives the same."""
    path = folder / f"{template.name}.yaml"
    path.write_text(written(template.body, name=template.name, description=template.description), encoding="utf-8")
    return path


def written(body: "TemplateBody", **fields: Any) -> str:
    """A body as YAML, after other fields."""
    import msgspec
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc] # it comes without types
        pass

    def as_text(dumper: Any, text: str) -> Any:
        style = '"' if _BREAKS & set(text) else "|" if "\n" in text else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, as_text)
    told = {name: value for name, value in fields.items() if value}
    whole = {**told, **msgspec.to_builtins(body)}
    text: str = yaml.dump(whole, Dumper=Dumper, allow_unicode=True, sort_keys=False, width=120)
    return text


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(error) from error


def _json(text: str) -> Any:
    import json

    return json.loads(text)


_READERS: Mapping[str, Callable[[str], Any]] = {
    "toml": tomllib.loads,
    "yaml": _yaml,
    "json": _json,
    "text": lambda text: {"text": text},
}
