"""The tap passes whole events on as they are, whatever pieces they come in."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from preble.daemon.flow.sse import DONE, SseTap, calls_tools, usage_of, without_cached_tokens

TOKEN = b'data: {"choices":[{"text":"say \\"usage\\":{} and [DONE]"}]}\n\n'
COUNTS = b'{"prompt_tokens":7,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}'
USAGE = b'data: {"choices":[],"usage":' + COUNTS + b"}\n\n"
STREAM = TOKEN + TOKEN + USAGE + DONE


@given(st.sets(st.integers(0, len(STREAM))), st.booleans())
def test_however_a_stream_is_cut_into_pieces_the_client_gets_the_same(cuts, hide):
    tap = SseTap(hide_usage=hide)
    edges = [0, *sorted(cuts), len(STREAM)]
    passed = b"".join(tap.feed(STREAM[a:b]) for a, b in pairwise(edges))
    assert passed == TOKEN + TOKEN + (b"" if hide else USAGE)
    assert (tap.usage.prompt_tokens, tap.usage.completion_tokens, tap.usage.cached_tokens) == (7, 2, 4)
    assert (tap.done, tap.error, tap.n_events) == (True, None, 2)


def test_usage_beside_output_is_passed_on():
    event = b'data: {"choices":[{"text":"x"}],"usage":{"prompt_tokens":7,"completion_tokens":1}}\n\n'
    tap = SseTap(hide_usage=True)
    assert tap.feed(event) == event
    assert tap.usage.completion_tokens == 1


def test_where_prompt_tokens_came_from_is_hidden_in_every_event():
    shown = COUNTS.replace(b'{"cached_tokens":4}', b"null")
    beside = b'data: {"choices":[{"text":"x"}],"usage":' + COUNTS + b"}\n\n"
    tap = SseTap(hide_usage=False, hide_cached_tokens=True)
    passed = tap.feed(TOKEN + beside + USAGE + DONE)
    assert passed == (TOKEN + beside + USAGE).replace(COUNTS, shown)
    assert (tap.usage.cached_tokens, tap.n_events, tap.done) == (4, 2, True)


def test_a_body_without_cached_tokens_is_otherwise_the_same():
    odd = b'{"id":"\\u00e9","created":1e2,"choices":[{"x": 1.0}],"usage":%s,"last":null}'
    shown = COUNTS.replace(b'{"cached_tokens":4}', b"null")
    assert without_cached_tokens(odd % COUNTS) == odd % shown
    for none in (b'{"choices": []}', odd % b"null"):
        assert without_cached_tokens(none) == none


def test_an_error_is_kept_back():
    tap = SseTap(hide_usage=True)
    assert tap.feed(TOKEN + b'data: {"error": {"message": "dead"}}\n\n') == TOKEN
    assert tap.error == b'{"error": {"message": "dead"}}'


def test_usage_of_a_whole_body():
    assert usage_of(b'{"choices":[{}],"usage":{"prompt_tokens":3,"completion_tokens":1}}').prompt_tokens == 3
    assert usage_of(b'{"choices":[]}') is None
    assert usage_of(b"not json") is None


def test_tool_calls_are_seen_in_streams_and_bodies():
    tap = SseTap(hide_usage=False)
    tap.feed(b'data: {"choices":[{"delta":{"content":"\\"tool_calls\\":[{","tool_calls":[]}}]}\n\n')
    assert not tap.calls_tools
    tap.feed(b'data: {"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}\n\n')
    assert tap.calls_tools
    assert calls_tools(b'{"choices":[{"message":{"tool_calls":[{"id":"x"}]}}]}')
    assert not calls_tools(b'{"choices":[{"message":{"tool_calls":[]}}]}')
