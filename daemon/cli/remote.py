"""Where the daemon is, and whose key speaks to it: options first, then the environment, then preble.toml."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from preble.daemon.errors import ConfigError, Refused

if TYPE_CHECKING:
    from preble.daemon.config import Config
    from preble.daemon.wire.client import AdminClient

_Command = TypeVar("_Command", bound=Callable[..., Any])

CONFIG_FILE = Path("preble.toml")
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 (to be replaced, not listened on)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """How to reach the daemon. Reads the configuration only where options and environment leave something open."""

    url: str | None
    key_file: Path | None
    key: str | None
    config_path: Path | None

    @contextmanager
    def client(self, *, tenants_too: bool = False) -> Iterator["AdminClient"]:
        """A client with the operator's key; with `tenants_too` it may be a tenant's, for its own routes.

        Raises `ConfigError`, and with each call `Unreachable` and `Refused`.
        """
        from preble.daemon.tenancy.keys import is_tenants
        from preble.daemon.wire.client import AdminClient, BadKey

        url = self.find_url()
        key, source = self._find_key()
        try:
            routes = "/v1" if tenants_too and key is not None and is_tenants(key) else "/admin/v1"
            with AdminClient(url, key, routes) as client:
                yield client
        except BadKey as error:
            what = f"does not take the key from {source}" if key else f"wants an operator's key; {source}"
            raise Refused(f"{url} {what}. Name another with --key-file or PREBLE_KEY.") from error

    def find_url(self) -> str:
        """Where the daemon listens. Raises `ConfigError`."""
        if self.url is None:
            return url_of(self._config())
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"--url: {self.url!r} is no address; the nearest is {'http://' + self.url!r}")
        return self.url

    def _find_key(self) -> tuple[str | None, str]:
        """The key, and where it is from or why there is none."""
        if self.key_file is not None:
            return _checked(_read(self.key_file), str(self.key_file)), str(self.key_file)
        if self.key is not None:
            return _checked(self.key, "PREBLE_KEY"), "PREBLE_KEY"
        path = Path(self._config().data_dir) / "operator.key"
        if not path.exists():
            return None, f"{path} is not there (the daemon writes it when it starts)"
        return _checked(_read(path), str(path)), str(path)

    def _config(self) -> "Config":
        from preble.daemon.config import Config, load

        if self.config_path is None and not CONFIG_FILE.exists():
            return Config()
        return load(self.config_path or CONFIG_FILE)


def remote_command(command: _Command) -> _Command:
    """Give a command `--url`, `--key-file`, `--config` and `--json`; it gets `remote` and `as_json`."""

    @wraps(command)
    def with_remote(*args: Any, url: str | None, key_file: Path | None, config_path: Path | None, **kwargs: Any) -> Any:
        key = os.environ.get("PREBLE_KEY") or None  # no option: other users could read it in the list of processes
        return command(*args, remote=Remote(url=url, key_file=key_file, key=key, config_path=config_path), **kwargs)

    for option in (json_option, _config_if_any, _key_file, url_option):
        with_remote = option(with_remote)
    return with_remote  # type: ignore[return-value]


def url_of(config: "Config") -> str:
    """Where a daemon with this configuration can be reached from here. Raises `ConfigError`."""
    if config.server.port == 0:
        raise ConfigError("server.port is 0, so the daemon's port is not known here; name it with --url")
    return url_at(config.server.host, config.server.port)


def url_at(host: str, port: int) -> str:
    """The address of a daemon that listens there, as this machine reaches it."""
    host = _ANY_ADDRESS.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: this is no key of Preble") from None
    except OSError as error:
        raise ConfigError(f"{path}: the operator's key cannot be read: {error.strerror}") from error


def _checked(key: str, source: str) -> str:
    from preble.daemon.tenancy.keys import id_of

    if id_of(key) is None:
        raise ConfigError(f"{source}: this is no key of Preble, or it is mistyped")
    return key
