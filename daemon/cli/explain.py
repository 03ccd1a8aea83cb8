"""A decision for people: what was known, what each GPU would have cost, which rule fired, and what then happened."""

import click

from preble.daemon.cli.output import table
from preble.daemon.wire.admin import CandidateRow, Explanation


def render(explanation: Explanation) -> None:
    """Print it."""
    click.echo(f"{explanation.request_id}  {explanation.model}  {explanation.decided_at}")
    click.echo(f"{explanation.mode.upper()} on {explanation.gpu}: {explanation.reason}.")
    click.echo(f"prompt {explanation.prompt_tokens} tokens\n")
    columns = ["GPU", "holds", "cached", "missed", "L load ms", "M evict ms", "P prefill ms", "sum ms", ""]
    table(columns, [_row(candidate, explanation) for candidate in explanation.candidates])
    click.echo(f"\nWhat happened: {_outcome(explanation)}")


def _row(candidate: CandidateRow, explanation: Explanation) -> list[object]:
    return [
        candidate.gpu,
        "yes" if candidate.holds_prefix else "no",
        candidate.cached_tokens,
        candidate.missed_tokens,
        round(candidate.load_ms, 1),
        round(candidate.evict_ms, 1),
        round(candidate.prefill_ms, 1),
        round(candidate.cost_ms, 1),
        "<- chosen" if candidate.gpu == explanation.gpu else "",
    ]


def _outcome(explanation: Explanation) -> str:
    actual = explanation.actual
    parts = [actual.status]
    if actual.cached_tokens is not None:
        parts.append(
            f"the engine had {actual.cached_tokens} tokens cached (expected {explanation.predicted_cached_tokens})"
        )
    parts.append(f"{actual.output_tokens} tokens of output")
    times = {"waited": actual.queue_ms, "first token after": actual.ttft_ms, "all after": actual.latency_ms}
    parts += [f"{name} {value:.1f} ms" for name, value in times.items() if value is not None]
    if explanation.attempts > 1:
        parts.append(f"try {explanation.attempts}")
    return ", ".join(parts)
