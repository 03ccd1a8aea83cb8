"""A decision for people: what every GPU would have cost, which rule fired, and what then happened."""

import click

from preble.daemon.cli.output import Cell, moment, printable, table
from preble.daemon.wire.admin import Actual, CandidateRow, Explanation

_COLUMNS = [
    "GPU",
    "cached",
    "missed",
    "L load",
    "M evict",
    "P prefill",
    "wait",
    "decode",
    "requests",
    "cost ms",
    "verdict",
]


def render(explanation: Explanation) -> None:
    """Print it: the chosen GPU first, the others by what they would have cost."""
    chosen = next(row for row in explanation.candidates if row.gpu == explanation.gpu)
    others = sorted((row for row in explanation.candidates if row is not chosen), key=lambda row: row.cost_ms)
    actual = explanation.actual
    title = click.style("Dry run" if actual is None else printable(explanation.request_id), bold=True)
    asked = f"{explanation.prompt_tokens:,} prompt tokens, {moment(explanation.decided_at)} UTC"
    click.echo(f"{title}  {printable(explanation.model)}, {asked}\n")
    mode = click.style(explanation.mode.replace("_", " ").upper(), fg="cyan", bold=True)
    click.echo(f"{mode} on {explanation.gpu}: {explanation.reason}.\n")
    table(_COLUMNS, [_row(row, chosen, explanation.mode) for row in (chosen, *others)])
    if actual is None:
        _section("What would happen", "it was not run", _prospect(explanation, chosen))
    else:
        _section("What happened", actual.status, _outcome(explanation, actual, chosen))


def _section(title: str, how: str, lines: list[tuple[str, str]]) -> None:
    click.echo(f"\n{click.style(title, bold=True)}: {how}")
    for name, text in lines:
        click.echo(f"  {name:<11}{text}")


def _row(row: CandidateRow, chosen: CandidateRow, mode: str) -> list[Cell]:
    return [
        row.gpu,
        row.cached_tokens,
        row.missed_tokens,
        round(row.load_ms, 1),
        round(row.evict_ms, 1),
        round(row.prefill_ms, 1),
        round(row.wait_ms, 1),
        round(row.decode_ms, 1),
        row.requests,
        round(row.cost_ms, 1),
        _verdict(row, chosen, mode),
    ]


def _verdict(row: CandidateRow, chosen: CandidateRow, mode: str) -> str:
    if row is chosen:
        return "chosen"
    if mode == "exploit" and not row.holds_prefix:
        return "does not cache the biggest part"
    more_ms = row.cost_ms - chosen.cost_ms
    if more_ms > 0:
        return f"costs {more_ms:,.1f} ms more"
    return "costs the same; the first by name wins" if more_ms == 0 else f"costs {-more_ms:,.1f} ms less"


def _prospect(explanation: Explanation, chosen: CandidateRow) -> list[tuple[str, str]]:
    return [
        ("cached", f"{explanation.predicted_cached_tokens:,} tokens"),
        ("time", f"{chosen.wait_ms:,.1f} ms waiting for others' prefill, {chosen.prefill_ms:,.1f} ms prefill"),
        ("output", f"{explanation.predicted_output_tokens:,} tokens"),
    ]


def _outcome(explanation: Explanation, actual: Actual, chosen: CandidateRow) -> list[tuple[str, str]]:
    lines = [("cached", _cached(actual.cached_tokens, explanation.predicted_cached_tokens))]
    lines.append(("time", _times(actual, chosen.prefill_ms)))
    lines.append(("output", _output(actual.output_tokens, explanation.predicted_output_tokens)))
    if explanation.attempts > 1:
        lines.append(("attempts", f"{explanation.attempts}; this is the last of them"))
    return lines


def _cached(found: int | None, predicted: int) -> str:
    if found is None:
        return f"not known; {predicted:,} tokens predicted"
    difference = found - predicted
    return f"{found:,} tokens found by the engine, {predicted:,} predicted" + (
        f": {abs(difference):,} {'more' if difference > 0 else 'fewer'}" if difference else ", just as many"
    )


def _output(produced: int, predicted: int | None) -> str:
    return f"{produced:,} tokens" + ("" if predicted is None else f", {predicted:,} predicted")


def _times(actual: Actual, predicted_prefill_ms: float) -> str:
    parts = []
    if actual.queue_ms is not None:
        parts.append(f"{actual.queue_ms:,.1f} ms waiting")
    if actual.queue_ms is not None and actual.ttft_ms is not None:
        engine_ms = actual.ttft_ms - actual.queue_ms
        parts.append(f"{engine_ms:,.1f} ms in the engine to the first token (prefill predicted: ")
        parts[-1] += f"{predicted_prefill_ms:,.1f})"
    parts.append(f"{actual.latency_ms:,.1f} ms in all")
    return ", ".join(parts)
