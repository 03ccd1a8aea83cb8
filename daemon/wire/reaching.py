"""Where the daemon is, and whose key speaks to it, for the command line and the console: options, then preble.toml."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from preble.daemon.errors import ConfigError

if TYPE_CHECKING:
    from preble.daemon.config import Config

CONFIG_FILE = Path("preble.toml")
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 (to be replaced, not listened on)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What is known of it. Reads the configuration only where this leaves something open."""

    url: str | None
    key_file: Path | None
    key: str | None
    config_path: Path | None

    def find_url(self) -> str:
        """Where the daemon listens. Raises `ConfigError`."""
        if self.url is None:
            return url_of(self._config())
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"--url: {self.url!r} is no address; the nearest is {'http://' + self.url!r}")
        return self.url

    def find_key(self) -> tuple[str | None, str]:
        """The key, not checked yet, and where it is from or why there is none. Raises `ConfigError`."""
        if self.key_file is not None:
            return _read(self.key_file), str(self.key_file)
        if self.key is not None:
            return self.key, "PREBLE_KEY"
        path = Path(self._config().data_dir) / "operator.key"
        if not path.exists():
            return None, f"{path} is not there (the daemon writes it when it starts)"
        return _read(path), str(path)

    def _config(self) -> "Config":
        from preble.daemon.config import Config, load

        if self.config_path is None and not CONFIG_FILE.exists():
            return Config()
        return load(self.config_path or CONFIG_FILE)


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
