"""`preble config`: what preble.toml says, and what it may say."""

import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from preble.daemon.cli.output import emit, say, table
from preble.daemon.cli.remote import config_option, json_option
from preble.daemon.wire.reaching import CONFIG_FILE


@click.group()
def config() -> None:
    """preble.toml."""


@config.command()
@config_option
@json_option
def check(config_path: Path, as_json: bool) -> None:
    """Say whether the file is right; exit code 2 if it is not."""
    from preble.daemon.config import load

    loaded = load(config_path)
    models = [model.name for model in loaded.models]
    emit(
        {"config": str(config_path), "models": models},
        as_json,
        lambda: say(f"{config_path} is right; models: {', '.join(models) or 'none'}"),
    )


@config.command()
@config_option
@json_option
def show(config_path: Path, as_json: bool) -> None:
    """Print every value in force, and whether it is from the file or the default."""
    import msgspec

    from preble.daemon.config import load

    values = _flat(msgspec.to_builtins(load(config_path)))
    written = {name for name, _ in _flat(tomllib.loads(config_path.read_text(encoding="utf-8")))}
    found = [
        {"key": name, "value": value, "from": str(config_path) if name in written else "default"}
        for name, value in values
    ]
    emit(found, as_json, lambda: table(["key", "value", "from"], [[*map(_plain, row.values())] for row in found]))


@config.command()
@json_option
def default(as_json: bool) -> None:
    """Print a file to begin with: every key, its unit and its default."""
    text = _file_to_begin_with().read_text(encoding="utf-8")
    emit(tomllib.loads(text) if as_json else None, as_json, lambda: click.echo(text, nl=False))


@config.command()
@json_option
def schema(as_json: bool) -> None:
    """Print the file's JSON Schema, for editors. It is JSON in any case."""
    import msgspec

    from preble.daemon.config import Config

    emit(msgspec.json.schema(Config), True, lambda: None)


def _file_to_begin_with() -> Path:
    """In a wheel it lies inside the package, in a checkout beside it."""
    package = Path(str(files("preble.daemon")))
    packed = package / CONFIG_FILE
    return packed if packed.exists() else package.resolve().parent / CONFIG_FILE


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by dotted names: `server.port`, `models[0].name`."""
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple) and value and all(isinstance(each, dict) for each in value):
            for number, each in enumerate(value):
                yield from _flat(each, f"{prefix}{name}[{number}].")
        else:
            yield prefix + name, value


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
