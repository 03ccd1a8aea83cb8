"""Where the daemon is, and whose key speaks to it: options first, then the environment, then preble.toml."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from preble.daemon.errors import ConfigError, Refused
from preble.daemon.wire.reaching import CONFIG_FILE, Reach

if TYPE_CHECKING:
    from preble.daemon.wire.console import ConsoleClient

_Command = TypeVar("_Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
config_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=CONFIG_FILE,
    show_default=True,
    help="The configuration file.",
)
url_option = click.option("--url", envvar="PREBLE_URL", help="Where the daemon listens; else as preble.toml says.")
_key_file = click.option(
    "--key-file",
    type=click.Path(path_type=Path),
    help="File with the operator's key; else PREBLE_KEY, else DATA_DIR/operator.key.",
)
_config_if_any = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="The configuration file.  [default: preble.toml]",
)


class Remote(Reach):
    """How to reach the daemon."""

    @contextmanager
    def client(self, *, tenants_too: bool = False) -> Iterator["ConsoleClient"]:
        """A client with the operator's key; with `tenants_too` it may be a tenant's, for its own routes.

        Raises `ConfigError`, and with each call `Unreachable` and `Refused`.
        """
        from preble.daemon.tenancy.keys import is_tenants
        from preble.daemon.wire.client import OPERATORS, TENANTS, BadKey
        from preble.daemon.wire.console import ConsoleClient

        url = self.find_url()
        key, source = self.find_key()
        if key is not None:
            _check(key, source)
        try:
            routes = TENANTS if tenants_too and key is not None and is_tenants(key) else OPERATORS
            with ConsoleClient(url, key, routes) as client:
                yield client
        except BadKey as error:
            what = f"does not take the key from {source}" if key else f"wants an operator's key; {source}"
            raise Refused(f"{url} {what}. Name another with --key-file or PREBLE_KEY.") from error


def remote_command(command: _Command) -> _Command:
    """Give a command `--url`, `--key-file`, `--config` and `--json`; it gets `remote` and `as_json`."""

    @wraps(command)
    def with_remote(*args: Any, url: str | None, key_file: Path | None, config_path: Path | None, **kwargs: Any) -> Any:
        key = os.environ.get("PREBLE_KEY") or None  # no option: other users could read it in the list of processes
        return command(*args, remote=Remote(url=url, key_file=key_file, key=key, config_path=config_path), **kwargs)

    for option in (json_option, _config_if_any, _key_file, url_option):
        with_remote = option(with_remote)
    return with_remote  # type: ignore[return-value]


def _check(key: str, source: str) -> None:
    from preble.daemon.tenancy.keys import id_of

    if id_of(key) is None:
        raise ConfigError(f"{source}: this is no key of Preble, or it is mistyped")
