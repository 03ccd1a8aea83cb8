"""The command line. stdout is data, stderr is narration; what a command needs is imported when it runs."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from preble.daemon import __version__
from preble.daemon.cli.output import Exit, emit, fail, table
from preble.daemon.errors import PrebleError

if TYPE_CHECKING:
    from preble.daemon.wire.client import AdminClient

_CONFIG = click.option(
    "--config", "config_path", type=click.Path(path_type=Path), default=Path("preble.toml"), show_default=True
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


class Remote:
    """How to reach the daemon; reads the configuration only when a command asks."""

    def __init__(self, url: str | None, key_file: Path | None, key: str | None, config_path: Path) -> None:
        self._url, self._key_file, self._key, self._config_path = url, key_file, key, config_path

    def client(self) -> "AdminClient":
        """A client with the operator's key. Raises `ConfigError`."""
        from preble.daemon.config import load
        from preble.daemon.errors import ConfigError
        from preble.daemon.wire.client import AdminClient

        config = None if self._url and (self._key or self._key_file) else load(self._config_path)
        url = self._url or (f"http://{config.server.host}:{config.server.port}" if config else "")
        if self._key:
            return AdminClient(url, self._key)
        path = self._key_file or Path(config.data_dir if config else ".preble") / "operator.key"
        try:
            return AdminClient(url, path.read_text(encoding="ascii").strip())
        except OSError as error:
            raise ConfigError(f"{path}: the operator's key cannot be read: {error.strerror}; see --key-file") from error


class _Group(click.Group):
    """Turns foreseeable faults into one line and an exit code that scripts can rely on."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PrebleError as error:
            fail(error)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--url", envvar="PREBLE_URL", help="Where the daemon listens; else as preble.toml says.")
@click.option("--key-file", type=click.Path(path_type=Path), help="The operator's key; else DATA_DIR/operator.key.")
@click.option("--key", envvar="PREBLE_KEY", hidden=True)
@_CONFIG
@click.pass_context
def main(ctx: click.Context, url: str | None, key_file: Path | None, key: str | None, config_path: Path) -> None:
    """Serve language models to many tenants, each request where its prefix is already cached.

    Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 daemon unreachable, 4 refused.
    """
    ctx.obj = Remote(url, key_file, key, config_path)


@main.command()
@_CONFIG
def serve(config_path: Path) -> None:
    """Run the daemon in the foreground; SIGTERM or Ctrl-C ends it."""
    from preble.daemon.cli.serve import serve as run

    sys.exit(run(config_path))


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(__version__)


@main.command()
@_CONFIG
@_JSON
def doctor(config_path: Path, as_json: bool) -> None:
    """Say what is missing or wrong on this machine, and the mend."""
    from preble.daemon.cli.doctor import diagnose

    checks = diagnose(config_path)
    rows = [[check.status, check.name, check.detail, check.mend if check.status != "ok" else ""] for check in checks]
    emit(checks, as_json, lambda: table(["status", "check", "found", "mend"], rows))
    sys.exit(Exit.FAILED if any(check.status == "fail" for check in checks) else Exit.OK)


# --- tenants and keys ---


@main.group()
def tenant() -> None:
    """Who is served."""


@tenant.command("create")
@click.argument("name")
@_JSON
@click.pass_obj
def tenant_create(remote: Remote, name: str, as_json: bool) -> None:
    """Make a tenant."""
    with remote.client() as client:
        row = client.create_tenant(name)
    emit(row, as_json, lambda: click.echo(f"tenant {row.name} created; next: preble key create {row.name}", err=True))


@tenant.command("list")
@_JSON
@click.pass_obj
def tenant_list(remote: Remote, as_json: bool) -> None:
    """List tenants, with what they have used."""
    with remote.client() as client:
        rows = client.tenants()
    emit(rows, as_json, lambda: _tenant_table(rows))


@tenant.command("show")
@click.argument("name")
@_JSON
@click.pass_obj
def tenant_show(remote: Remote, name: str, as_json: bool) -> None:
    """Show one tenant."""
    with remote.client() as client:
        row = client.tenant(name)
    emit(row, as_json, lambda: _tenant_table([row]))


def _tenant_table(rows: list[Any]) -> None:
    columns = ["tenant", "keys", "requests", "prompt tokens", "cached", "output", "created"]
    cells = [
        [r.name, r.keys, r.requests, r.prompt_tokens, r.cached_tokens, r.output_tokens, r.created_at] for r in rows
    ]
    table(columns, cells)


@main.group()
def key() -> None:
    """Tenants' API keys."""


@key.command("create")
@click.argument("tenant_name", metavar="TENANT")
@click.option("--name", default="", help="What the key is for.")
@click.option("--expires-days", type=click.FloatRange(min=0, min_open=True), help="The key works for so many days.")
@_JSON
@click.pass_obj
def key_create(remote: Remote, tenant_name: str, name: str, expires_days: float | None, as_json: bool) -> None:
    """Make a key. It is shown this once."""
    with remote.client() as client:
        created = client.create_key(tenant_name, name=name, expires_in_days=expires_days)
    if not as_json:
        click.echo(f"key {created.id} of {created.tenant}; keep it, it is not shown again:", err=True)
    emit(created, as_json, lambda: click.echo(created.key))


@key.command("list")
@click.option("--tenant", "tenant_name", help="Only this tenant's.")
@_JSON
@click.pass_obj
def key_list(remote: Remote, tenant_name: str | None, as_json: bool) -> None:
    """List keys, without their secrets."""
    with remote.client() as client:
        rows = client.keys(tenant_name)
    columns = ["id", "tenant", "name", "ends in", "scopes", "created", "expires", "revoked"]
    cells = [
        [r.id, r.tenant, r.name, r.last4, " ".join(r.scopes), r.created_at, r.expires_at, r.revoked_at] for r in rows
    ]
    emit(rows, as_json, lambda: table(columns, cells))


@key.command("revoke")
@click.argument("key_id", metavar="KEY_ID")
@_JSON
@click.pass_obj
def key_revoke(remote: Remote, key_id: str, as_json: bool) -> None:
    """Make a key useless, at once."""
    with remote.client() as client:
        row = client.revoke_key(key_id)
    emit(row, as_json, lambda: click.echo(f"key {row.id} of {row.tenant or 'the operator'} is revoked", err=True))


# --- engines ---


@main.group()
def gpu() -> None:
    """Engines, one per GPU."""


@gpu.command("list")
@_JSON
@click.pass_obj
def gpu_list(remote: Remote, as_json: bool) -> None:
    """List engines and what they do."""
    with remote.client() as client:
        rows = client.gpus()
    emit(rows, as_json, lambda: _gpu_table(rows))


@gpu.command("drain")
@click.argument("name", metavar="GPU")
@_JSON
@click.pass_obj
def gpu_drain(remote: Remote, name: str, as_json: bool) -> None:
    """Place nothing new on a GPU; what runs there finishes."""
    _order(remote, name, "drain", as_json)


@gpu.command("undrain")
@click.argument("name", metavar="GPU")
@_JSON
@click.pass_obj
def gpu_undrain(remote: Remote, name: str, as_json: bool) -> None:
    """Put a GPU back to work."""
    _order(remote, name, "undrain", as_json)


@gpu.command("restart")
@click.argument("name", metavar="GPU")
@_JSON
@click.pass_obj
def gpu_restart(remote: Remote, name: str, as_json: bool) -> None:
    """Let a GPU's requests finish, then start its engine again."""
    click.echo(f"{name}: waiting for its running requests", err=True)
    _order(remote, name, "restart", as_json)


def _order(remote: Remote, name: str, order: str, as_json: bool) -> None:
    with remote.client() as client:
        row = client.order_gpu(name, order)
    emit(row, as_json, lambda: _gpu_table([row]))


def _gpu_table(rows: list[Any]) -> None:
    columns = ["gpu", "state", "model", "running", "waiting", "KV %", "hit %", "load ms", "TTFT p50 ms", "restarts"]
    cells = [
        [
            r.gpu,
            r.state,
            r.model,
            r.running,
            r.waiting,
            _percent(r.kv_used_ratio),
            _percent(r.hit_ratio),
            round(r.load_ms),
            None if r.ttft_p50_ms is None else round(r.ttft_p50_ms),
            r.restarts,
        ]
        for r in rows
    ]
    table(columns, cells)
    for row in rows:
        if row.detail:
            click.echo(f"{row.gpu}: {row.detail}", err=True)


def _percent(ratio: float | None) -> int | None:
    return None if ratio is None else round(100 * ratio)


# --- what happened ---


@main.command()
@click.argument("request_id", metavar="REQUEST_ID")
@_JSON
@click.pass_obj
def explain(remote: Remote, request_id: str, as_json: bool) -> None:
    """Say why a request went where it went, and what then happened."""
    from preble.daemon.cli.explain import render

    with remote.client() as client:
        explanation = client.explain(request_id)
    emit(explanation, as_json, lambda: render(explanation))


@main.command()
@click.option("--tenant", "tenant_name", help="Only this tenant's.")
@click.option("--since", help="A date or time (ISO 8601), or an age such as 90m, 24h, 7d.")
@_JSON
@click.pass_obj
def usage(remote: Remote, tenant_name: str | None, since: str | None, as_json: bool) -> None:
    """Show what tenants have used."""
    with remote.client() as client:
        page = client.usage(tenant_name, _since(since) if since else None)
    columns = ["tenant", "requests", "prompt tokens", "cached", "output"]
    cells = [[t.tenant, t.requests, t.prompt_tokens, t.cached_tokens, t.output_tokens] for t in page.totals]
    emit(page, as_json, lambda: table(columns, cells))


def _since(text: str) -> datetime:
    units = {"m": 60, "h": 3600, "d": 86_400}
    try:
        if text[-1:] in units:
            return datetime.now(UTC) - timedelta(seconds=float(text[:-1]) * units[text[-1]])
        at = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{text!r} is neither a time nor an age such as 24h", param_hint="--since") from None
    return at if at.tzinfo else at.astimezone()


# --- this machine ---


@main.group()
def db() -> None:
    """The database."""


@db.command("upgrade")
@_CONFIG
def db_upgrade(config_path: Path) -> None:
    """Bring the database to this version's schema. The daemon does so itself when it starts."""
    from preble.daemon.config import load
    from preble.daemon.store.db import FILE_NAME, newest_revision, upgrade

    data_dir = Path(load(config_path).data_dir)
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    upgrade(data_dir)
    click.echo(f"{data_dir / FILE_NAME} is at revision {newest_revision(data_dir)}", err=True)


@main.group()
def config() -> None:
    """preble.toml."""


@config.command("check")
@_CONFIG
def config_check(config_path: Path) -> None:
    """Say whether the file is right."""
    from preble.daemon.config import load

    load(config_path)
    click.echo(f"{config_path} is right", err=True)


@config.command("show")
@_CONFIG
def config_show(config_path: Path) -> None:
    """Print every value in force, as JSON."""
    from preble.daemon.config import load

    emit(load(config_path), True, lambda: None)


if __name__ == "__main__":
    main()
