"""`preble-tui`: finds the daemon, the recording or the simulation, and shows it."""

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from preble.daemon.errors import ConfigError, PrebleError
from preble.daemon.wire.reaching import Reach

if TYPE_CHECKING:
    from preble.tui.app import Console, Options

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", envvar="PREBLE_URL", help="Where the daemon listens; else as preble.toml says.")
@click.option(
    "--key-file", type=_FILE, help="File with the operator's key; else PREBLE_KEY, else DATA_DIR/operator.key."
)
@click.option("--config", "config_path", type=_FILE, help="The configuration file.  [default: preble.toml]")
@click.option("--write", "can_write", is_flag=True, help="Allow changes: drain, pin, limits, cancel, ...")
@click.option("--record", "record_to", type=_FILE, help="Keep what is told in this new file, 1 GiB at most.")
@click.option("--replay", "replay_from", type=_FILE, help="Show what was recorded; no daemon is needed.")
@click.option("--speed", type=click.FloatRange(0), default=1.0, help="Of --replay: times as fast; 0: all at once.")
@click.option("--demo", is_flag=True, help="Show a simulated cluster; no daemon is needed.")
@click.option("--ascii", "ascii_only", is_flag=True, help="For terminals without Unicode.")
@click.option("--light", is_flag=True, help="The light theme; T changes it.")
def main(
    url: str | None,
    key_file: Path | None,
    config_path: Path | None,
    can_write: bool,
    record_to: Path | None,
    replay_from: Path | None,
    speed: float,
    demo: bool,
    ascii_only: bool,
    light: bool,
) -> None:
    """Watch a Preble daemon, and ask it why; ? shows the keys.

    Read-only without --write. NO_COLOR is obeyed. Exit codes: 0 done, 1 failed, 2 usage or configuration.
    """
    from preble.tui.app import Options
    from preble.tui.theme import DARK, LIGHT

    if demo and replay_from is not None:
        raise click.UsageError("--demo and --replay exclude each other.")
    if can_write and (demo or replay_from is not None):
        raise click.UsageError("--write wants a daemon: not with --demo or --replay.")
    if record_to is not None and replay_from is not None:
        raise click.UsageError("--record and --replay exclude each other.")
    options = Options(can_write=can_write, ascii_only=ascii_only, palette=LIGHT if light else DARK)
    reach = Reach(url=url, key_file=key_file, key=os.environ.get("PREBLE_KEY") or None, config_path=config_path)
    try:
        console, stack = _console(options, reach, record_to, replay_from, speed, demo)
    except PrebleError as error:
        click.echo(f"preble-tui: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    with stack:
        console.run()
    sys.exit(console.return_code or 0)


def _console(
    options: "Options", reach: Reach, record_to: Path | None, replay_from: Path | None, speed: float, demo: bool
) -> "tuple[Console, ExitStack]":
    """The console, and what is to be closed at its end. Raises `ConfigError`."""
    from preble.daemon.wire.console import ConsoleClient
    from preble.tui.app import Console
    from preble.tui.desk import Desk
    from preble.tui.feed.live import LiveFeed
    from preble.tui.feed.record import Recorder
    from preble.tui.feed.replay import Demo, Replay, read_recording

    if replay_from is not None:
        options.target = replay_from.name
        replay = Replay(read_recording(replay_from), speed=speed)
        return Console(replay, Desk(None, replay.answers), options), ExitStack()
    stack = ExitStack()
    recorder = None if record_to is None else stack.enter_context(closing(Recorder(record_to)))
    on_event: Callable[[Any], None] = _nothing if recorder is None else recorder.event
    on_answer: Callable[[str, Any], None] = _nothing if recorder is None else recorder.answer
    if demo:
        options.target = "demo"
        source = Demo(on_event=on_event)
        return Console(source, Desk(None, source.answers, on_answer), options), stack
    url = reach.find_url()
    key, _ = reach.find_key()
    options.target = url.partition("://")[2]
    client = stack.enter_context(ConsoleClient(url, key))

    feed = LiveFeed(url, key, on_event=on_event)
    return Console(feed, Desk(client, on_answer=on_answer), options), stack


def _nothing(*_: Any) -> None:
    """For those who do not record."""


if __name__ == "__main__":
    main()
