"""`preble template`."""

import sys
from collections.abc import Sequence
from difflib import unified_diff
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from preble.daemon.cli.changes import dry_run_option, if_version_option, report
from preble.daemon.cli.output import Cell, emit, moment, percent, printable, say, table
from preble.daemon.cli.remote import Remote, remote_command
from preble.daemon.cli.template_files import FORMATS, parsed, read_file, read_folder, write_file, written

if TYPE_CHECKING:
    from preble.daemon.wire.client import AdminClient
    from preble.daemon.wire.templates import Analysis, TemplateCreate, TemplateRow, TemplateVersion, VersionRow

tenant_option = click.option("--tenant", help="A tenant's own; else those that all share. Not with a tenant's key.")
_label = click.option("--label", help="Point this label to what was registered.")
_folder = click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
REFERENCE = "NAME[@VERSION|@LABEL]"


@click.group()
def template() -> None:
    """Beginnings of prompts that are registered once, and what of them can be cached.

    With a tenant's key (PREBLE_KEY or --key-file) they are the tenant's.
    """


@template.command("register")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--name", help="Its name.  [default: as the file says, or as it is called]")
@click.option("--format", "file_format", type=click.Choice(sorted(set(FORMATS.values()))), help="Of the file.")
@_label
@tenant_option
@dry_run_option
@remote_command
def register(
    remote: Remote,
    file: Path,
    name: str | None,
    file_format: str | None,
    label: str | None,
    tenant: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Register a template from FILE, or - for standard input. What says the same is the version that there is."""
    if str(file) == "-":
        text = sys.stdin.read()
        wanted = parsed(text, file_format or _sniffed(text), "standard input", name, None)
    else:
        wanted = read_file(file, file_format, name)
    with remote.client(tenants_too=True) as client:
        done = client.register_template(wanted, tenant, dry_run=dry_run)
        if label is not None and not dry_run:
            client.label_template(wanted.name, label, done.version, tenant)  # type: ignore[union-attr]
            done = client.template(wanted.name, done.version, tenant=tenant)  # type: ignore[union-attr]
    report(done, as_json, _show)


@template.command("list")
@tenant_option
@remote_command
def list_templates(remote: Remote, tenant: str | None, as_json: bool) -> None:
    """List templates."""
    with remote.client(tenants_too=True) as client:
        rows = client.templates(tenant)
    emit(rows, as_json, lambda: _table(rows))


@template.command("show")
@click.argument("reference", metavar=REFERENCE)
@tenant_option
@remote_command
def show(remote: Remote, reference: str, tenant: str | None, as_json: bool) -> None:
    """Show a version and what of it can be cached; without one, that which requests get."""
    with remote.client(tenants_too=True) as client:
        row = _find(client, reference, tenant)
    emit(row, as_json, lambda: _show_whole(row))


@template.command("versions")
@click.argument("name")
@tenant_option
@remote_command
def list_versions(remote: Remote, name: str, tenant: str | None, as_json: bool) -> None:
    """List the versions of a template, newest first."""
    with remote.client(tenants_too=True) as client:
        rows = client.template_versions(name, tenant)
    emit(rows, as_json, lambda: _versions(rows))


@template.command("diff")
@click.argument("one", metavar=f"A={REFERENCE}")
@click.argument("other", metavar="B")
@tenant_option
@remote_command
def diff(remote: Remote, one: str, other: str, tenant: str | None, as_json: bool) -> None:
    """Show what two versions have that the other has not."""
    with remote.client(tenants_too=True) as client:
        rows = [_find(client, reference, tenant) for reference in (one, other)]
    (a, b), (old, new) = ([f"{row.name}@{row.version}" for row in rows], [written(row.body) for row in rows])
    lines = list(unified_diff(old.splitlines(), new.splitlines(), a, b, lineterm=""))
    emit({"a": a, "b": b, "diff": lines}, as_json, lambda: click.echo(printable("\n".join(lines))))


@template.command("label")
@click.argument("name")
@click.argument("label")
@click.argument("version", type=click.IntRange(min=1), required=False)
@click.option("--remove", is_flag=True, help="Take the label away.")
@tenant_option
@if_version_option
@dry_run_option
@remote_command
def move_label(
    remote: Remote,
    name: str,
    label: str,
    version: int | None,
    remove: bool,
    tenant: str | None,
    if_version: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Point LABEL to VERSION, from the next request on."""
    if remove == (version is not None):
        raise click.UsageError("name a version, or --remove the label")
    with remote.client(tenants_too=True) as client:
        done = client.label_template(name, label, version, tenant, if_version=if_version, dry_run=dry_run)
    report(done, as_json, lambda row: _table([row]))


@template.command("render")
@click.argument("reference", metavar=REFERENCE)
@click.option("--var", "variables", multiple=True, metavar="NAME=VALUE", help="A variable's value.")
@tenant_option
@remote_command
def render(remote: Remote, reference: str, variables: tuple[str, ...], tenant: str | None, as_json: bool) -> None:
    """Print a template with values in place of its variables."""
    from preble.daemon.wire.templates import TemplateBody, TemplateMessage, TemplateRender

    with remote.client(tenants_too=True) as client:
        row = _find(client, reference, tenant)
        use = TemplateRender(version=row.version, variables=_values(row, variables))
        done = client.render_template(row.name, use, tenant)

    def shown() -> None:
        if done.text is not None:
            click.echo(printable(done.text))
            return
        import msgspec

        messages = msgspec.convert(done.messages, list[TemplateMessage])
        click.echo(printable(written(TemplateBody(messages=messages, tools=done.tools))), nl=False)

    emit(done, as_json, shown)


@template.command("delete")
@click.argument("name")
@tenant_option
@if_version_option
@dry_run_option
@remote_command
def delete(remote: Remote, name: str, tenant: str | None, if_version: int | None, dry_run: bool, as_json: bool) -> None:
    """Delete a template with all its versions. Their numbers are not given again."""
    with remote.client(tenants_too=True) as client:
        done = client.delete_template(name, tenant, if_version=if_version, dry_run=dry_run)
    if report(done, as_json, lambda row: _table([row])) is not None:
        say(f"template {name} is deleted")


@template.command("import")
@_folder
@_label
@tenant_option
@dry_run_option
@remote_command
def import_folder(
    remote: Remote, folder: Path, label: str | None, tenant: str | None, dry_run: bool, as_json: bool
) -> None:
    """Register every template in FOLDER (.toml, .yaml, .json, .txt). What is there already stays as it is."""
    wanted = read_folder(folder)
    with remote.client(tenants_too=True) as client:
        before = {(row.owner, row.name): row.changes for row in client.templates(tenant)}
        rows = [
            {"file": path.name, **_registered(client, before, each, label, tenant, dry_run)}
            for path, each in wanted.items()
        ]
    emit(rows, as_json, lambda: table(["file", "template", "version", "state"], [list(row.values()) for row in rows]))


@template.command("export")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@tenant_option
@remote_command
def export_folder(remote: Remote, folder: Path, tenant: str | None, as_json: bool) -> None:
    """Write the newest version of every template to FOLDER, as YAML, for `import` and for git."""
    folder.mkdir(parents=True, exist_ok=True)
    with remote.client(tenants_too=True) as client:
        found = [row for row in client.templates(tenant) if tenant is None or row.owner == tenant]
        rows = {row.name: client.template(row.name, label="latest", tenant=tenant) for row in reversed(found)}
    paths = [write_file(folder, row) for _, row in sorted(rows.items())]
    emit([str(path) for path in paths], as_json, lambda: click.echo("\n".join(map(str, paths))))


def _registered(
    client: "AdminClient",
    before: dict[tuple[str | None, str], int],
    wanted: "TemplateCreate",
    label: str | None,
    tenant: str | None,
    dry_run: bool,
) -> dict[str, Any]:
    """Register one, and say what came of it."""
    from preble.daemon.wire.accounts import PlannedChange

    done = client.register_template(wanted, tenant, dry_run=dry_run)
    if isinstance(done, PlannedChange):
        version = (done.after or {})["version"]
        state = "unchanged" if done.before == done.after else "new" if version == 1 else "changed"
    else:
        version, old = done.version, before.get((done.owner, done.name))
        state = "new" if old is None else "changed" if done.changes > old else "unchanged"
        if label is not None:
            client.label_template(wanted.name, label, version, tenant)
    return {"template": wanted.name, "version": version, "state": state}


def _find(client: "AdminClient", reference: str, tenant: str | None) -> "TemplateVersion":
    """What `NAME`, `NAME@3` or `NAME@production` stands for."""
    name, version, label = split(reference)
    return client.template(name, version, label, tenant)


def split(reference: str) -> tuple[str, int | None, str | None]:
    """A name, and the version or the label behind it, if there is one."""
    name, _, which = reference.partition("@")
    if which.isascii() and which.isdigit():
        return name, int(which), None
    return name, None, which or None


def _values(row: "TemplateVersion", given: Sequence[str]) -> dict[str, Any]:
    """Values as their variables want them; what is none is left to the daemon to refuse."""
    import json

    values: dict[str, Any] = {}
    for each in given:
        name, found, value = each.partition("=")
        if not found:
            raise click.UsageError(f"--var {each}: write NAME=VALUE")
        variable = row.variables.get(name)
        values[name] = value
        if variable is not None and variable.type != "string":
            try:
                values[name] = json.loads(value)
            except ValueError:
                continue
    return values


def _sniffed(text: str) -> str:
    return "json" if text.lstrip().startswith("{") and not text.lstrip().startswith("{{") else "text"


def _table(rows: "Sequence[TemplateRow]") -> None:
    columns = ["template", "owner", "newest", "labels", "made (UTC)", "description"]
    cells = [
        [
            row.name,
            row.owner or "(operator)",
            row.latest,
            " ".join(f"{label}={number}" for label, number in row.labels.items()),
            moment(row.created_at),
            row.description,
        ]
        for row in rows
    ]
    table(columns, cells)


def _versions(rows: "Sequence[VersionRow]") -> None:
    cells: list[list[Cell]] = [
        [row.version, " ".join(row.labels), moment(row.created_at), row.created_by, row.digest[:12]] for row in rows
    ]
    table(["version", "labels", "made (UTC)", "by key", "digest"], cells)


def _show(row: "TemplateVersion") -> None:
    """What of it can be cached."""
    columns = ["template", "version", "model", "tokens", "without variables", "cacheable", "%"]
    cells: list[list[Cell]] = [
        [
            row.name,
            row.version,
            each.model,
            each.tokens,
            each.prefix_tokens,
            each.cacheable_tokens,
            percent(each.cacheable_ratio),
        ]
        for each in row.analyses
    ]
    table(columns, cells)
    for each in row.analyses:
        _tell(each)


def _show_whole(row: "TemplateVersion") -> None:
    _show(row)
    click.echo(printable(f"\n{written(row.body, description=row.description)}"), nl=False)


def _tell(analysis: "Analysis") -> None:
    if analysis.problem is not None:
        click.echo(printable(f"{analysis.model}: {analysis.problem}"))
    for advice in analysis.advice:
        click.echo(printable(f"{analysis.model}: {advice.text}"))
    for share in analysis.shares:
        parted = f"here {_token(share.ours)}, there {_token(share.theirs)}"
        whose = f"{share.name}@{share.version} of {share.owner or 'the operator'}"
        click.echo(printable(f"{analysis.model}: {share.shared_tokens} tokens as {whose}; then {parted}"))


def _token(text: str | None) -> str:
    return "ends what never varies" if text is None else repr(text)
