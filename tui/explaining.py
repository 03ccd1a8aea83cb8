"""A decision in words and figures: why it fell so, why the others lost, and what then happened. Pure."""

import textwrap

from preble.daemon.wire.admin import CandidateRow, Explanation
from preble.daemon.wire.live import LiveRequest
from preble.tui import format as fmt
from preble.tui.roles import Cell, Role, cell

_FAR_OFF = 2.0
"""A prediction that is wrong by this factor is worth a sign."""
_SMALL_MS = 20.0


def head_lines(
    request_id: str | None, explanation: Explanation | None, row: LiveRequest | None, fault: str, width: int
) -> list[Cell]:
    """Which request it is, and the rule that fired."""
    if request_id is None:
        return [cell(" no decision yet", "muted")]
    tenant = f"{row.tenant}   " if row is not None else ""
    if explanation is None:
        lines: list[Cell] = [((f" {request_id}   ", "title"), (fmt.clean(tenant), "text"))]
        why = fault or "asking the daemon …"
        lines += [cell(f" {part}", "bad" if fault else "muted") for part in textwrap.wrap(fmt.clean(why), width)]
        if row is not None and fault:
            lines.append(cell(f" what is known of it: {row.mode} placed it on {row.gpu}", "muted"))
        return lines
    head: Cell = (
        (f" {explanation.request_id}   ", "title"),
        (fmt.clean(tenant), "strong"),
        (f"{explanation.prompt_tokens} tokens   {fmt.clock(explanation.decided_at, tenths=True)}   ", "muted"),
        (f"attempts {explanation.attempts}", "warn" if explanation.attempts > 1 else "muted"),
    )
    reason = textwrap.wrap(fmt.clean(f"{explanation.mode.upper()} → {explanation.gpu}: {explanation.reason}"), width)
    return [head, *(cell(f" {part}") for part in reason)]


def verdict(candidate: CandidateRow, explanation: Explanation) -> Cell:
    """Why a candidate was chosen, or was not."""
    if candidate.gpu == explanation.gpu:
        return cell("◀ chosen", "accent")
    chosen = next((row for row in explanation.candidates if row.gpu == explanation.gpu), None)
    if chosen is None:
        return cell("")
    more_ms = candidate.cost_ms - chosen.cost_ms
    if more_ms > 0:
        return cell(f"costs {fmt.duration(more_ms)} more", "muted")
    if chosen.holds_prefix and not candidate.holds_prefix:
        return cell("cheaper, holds less", "warn")
    return cell("as cheap" if more_ms == 0 else "cheaper, other rule", "warn")


def outcome_lines(explanation: Explanation, width: int) -> list[Cell]:
    """What really happened, beside what was predicted."""
    actual = explanation.actual
    if actual is None:
        return [cell(" what happened: it has not ended yet", "muted")]
    chosen = next((row for row in explanation.candidates if row.gpu == explanation.gpu), None)
    lines: list[Cell] = [
        ((" what happened: ", "muted"), (fmt.clean(actual.status), "ok" if actual.status in _WELL else "bad")),
        _compared(
            "cached",
            f"{explanation.predicted_cached_tokens} tokens",
            _tokens(actual.cached_tokens),
            _factor(explanation.predicted_cached_tokens, actual.cached_tokens, 64),
        ),
    ]
    if chosen is not None:
        lines.append(_first_token(chosen, actual.ttft_ms))
    engine = fmt.duration(_minus(actual.ttft_ms, actual.queue_ms))
    parts = f"{fmt.duration(actual.queue_ms)} in the daemon's queue + {engine} in the engine, waiting or computing"
    whole = f"   all {fmt.duration(actual.latency_ms)}"
    lines.append(((" of TTFT   ", "muted"), (parts, "text"), (whole, "muted")))
    predicted = explanation.predicted_output_tokens
    off = _factor(predicted, actual.output_tokens, 64)
    lines.append(_compared("output", _tokens(predicted), _tokens(actual.output_tokens), off))
    return lines


def what_if_lines(without: list[str], other: Explanation, width: int) -> list[Cell]:
    """What would have been decided without some GPUs."""
    text = f"without {', '.join(without)}: {other.mode} → {other.gpu}: {other.reason}"
    chosen = next((row for row in other.candidates if row.gpu == other.gpu), None)
    if chosen is not None:
        text += f" (cost {fmt.duration(chosen.cost_ms)}, {chosen.cached_tokens} tokens cached)"
    return [cell(""), *(cell(f" {part}", "accent") for part in textwrap.wrap(fmt.clean(text), width))]


_WELL = frozenset({"ok", "finished", "succeeded", "done", "completed"})


def _first_token(chosen: CandidateRow, ttft_ms: float | None) -> Cell:
    """Both with all waiting: nobody can tell what of an engine's time is its own queue, so no part is compared."""
    wait, prefill = fmt.duration(chosen.wait_ms), fmt.duration(chosen.prefill_ms)
    predicted_ms = chosen.wait_ms + chosen.prefill_ms
    off = _factor(predicted_ms, ttft_ms, _SMALL_MS)
    return _compared("TTFT", f"{wait} wait + {prefill} prefill", fmt.duration(ttft_ms), off)


def _compared(label: str, predicted: str, actual: str, factor: float | None) -> Cell:
    role: Role = "warn" if factor is not None else "text"
    sign = f"   ▲ {fmt.number(factor)}× off" if factor is not None else ""
    return (
        (f" {label:<9} ", "muted"),
        (f"{predicted} predicted, ", "text"),
        (f"{actual} really", role),
        (sign, "warn"),
    )


def _factor(predicted: float | None, actual: float | None, small: float) -> float | None:
    """By how much they differ, if that is much: None also when both are small."""
    if predicted is None or actual is None or abs(predicted - actual) < small:
        return None
    factor = (max(predicted, actual) + 1) / (min(predicted, actual) + 1)
    return factor if factor >= _FAR_OFF else None


def _tokens(count: int | None) -> str:
    return fmt.UNKNOWN if count is None else f"{count} tokens"


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else max(one - other, 0.0)
