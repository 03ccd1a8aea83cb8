"""What commands that change tenants and keys have in common: their options, and how they show what would change."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from preble.daemon.cli.output import Cell, emit, printable

if TYPE_CHECKING:
    from preble.daemon.wire.accounts import PlannedChange
    from preble.daemon.wire.settings import Limits

_Command = TypeVar("_Command", bound=Callable[..., Any])
_T = TypeVar("_T")

LIMITS: Mapping[str, str] = {
    "requests_per_minute": "Requests per minute.",
    "input_tokens_per_minute": "Prompt tokens per minute.",
    "output_tokens_per_minute": "Output tokens per minute.",
    "concurrent_requests": "Requests at once.",
    "queued_requests": "Requests waiting for an engine at once.",
    "tokens_per_day": "Tokens per day (UTC).",
    "tokens_per_month": "Tokens per calendar month (UTC).",
    "pinned_tokens": "Tokens of templates kept in GPUs' caches.",
    "max_prompt_tokens": "Prompt tokens of one request.",
    "max_output_tokens": "Output tokens of one request.",
}
"""The limits that are numbers, and what they are of."""

dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would change, and change nothing.")
if_version_option = click.option("--if-version", type=int, help="Refuse if it has another version by now.")


class _Limit(click.ParamType[Any]):
    name = "n"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "N|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "none" else click.IntRange(min=0).convert(value, param, ctx)


def limit_options(command: _Command) -> _Command:
    """Give a command an option per limit; it gets `limits`: what was given, None for a limit to be lifted."""

    @wraps(command)
    def with_limits(*args: Any, model: tuple[str, ...], all_models: bool, **kwargs: Any) -> Any:
        if model and all_models:
            raise click.UsageError("--model and --all-models exclude each other")
        given = {name: kwargs.pop(name) for name in LIMITS}
        limits = {name: None if value == "none" else value for name, value in given.items() if value is not None}
        if model or all_models:
            limits["models"] = list(model) or None
        return command(*args, limits=limits, **kwargs)

    all_models = click.option("--all-models", is_flag=True, help="Lift the limit to some models.")
    model = click.option("--model", multiple=True, help="Only this model; more than once for some.")
    with_limits = model(all_models(with_limits))
    for name, help_ in reversed(list(LIMITS.items())):
        option = click.option(f"--{name.replace('_', '-')}", type=_Limit(), help=f"{help_} none: no limit.")
        with_limits = option(with_limits)
    return with_limits  # type: ignore[return-value]


def given(
    settings: Mapping[str, Any], limits: Mapping[str, Any], others: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The settings that are not None, the limits and the others. Raises `UsageError` if there are none of all."""
    named = {**{name: value for name, value in settings.items() if value is not None}, **(others or {})}
    if limits:
        named["limits"] = dict(limits)
    if not named:
        raise click.UsageError("nothing to change was named")
    return named


def report(done: "_T | PlannedChange", as_json: bool, render: Callable[[_T], None]) -> _T | None:
    """Print what has come of a change, or would have; the former is returned."""
    from preble.daemon.wire.accounts import PlannedChange

    if isinstance(done, PlannedChange):
        emit(done, as_json, lambda: _show_plan(done))
        return None
    emit(done, as_json, lambda: render(done))
    return done


def difference(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
    """What two states of one thing have that the other has not, in a line."""
    old, new = _flat(before or {}), _flat(after or {})
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if before is None:
        return ", ".join(f"{name} {new[name]}" for name in names)
    return ", ".join(f"{name} {old.get(name, '-')} -> {new.get(name, '-')}" for name in names)


def limit_cells(limits: "Limits") -> list[list[Cell]]:
    """The limits that there are, as rows of a table."""
    values = {name: getattr(limits, name) for name in (*LIMITS, "models")}
    return [
        [name.replace("_", " "), " ".join(value) if name == "models" else value]
        for name, value in values.items()
        if value is not None
    ]


def _show_plan(change: "PlannedChange") -> None:
    if change.before == change.after:
        click.echo(f"{change.action} {change.target}: nothing would change")
    elif change.after is None:
        click.echo(f"{change.action} {change.target}: it would be gone")
    else:
        click.echo(printable(f"{change.action} {change.target}: {difference(change.before, change.after)}"))
    for sentence in change.effect:
        click.echo(printable(sentence))


def _flat(state: Mapping[str, Any]) -> dict[str, str]:
    """Every value that there is, as text, under its name."""
    found: dict[str, str] = {}
    for name, value in state.items():
        if isinstance(value, Mapping):
            found.update(_flat(value))
        elif value is not None and value != "":
            found[name] = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return found
