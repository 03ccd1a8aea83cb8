"""Chats that show whether prompts are made here as an engine makes them. Each is to catch a mistake of its own."""

from collections.abc import Mapping
from typing import Any

_WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'Weather "now" <at> a place & time',
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
_CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Zürich"}'}}
_SYSTEM = {"role": "system", "content": "You are terse."}
_QUESTION = {"role": "user", "content": "Is it raining in Zürich?"}
_CALLING = {"role": "assistant", "content": None, "tool_calls": [_CALL]}
_RESULT = {"role": "tool", "tool_call_id": "call_1", "content": '{"rain": true}'}
_ODD_TEXT = "  I'll pay 1234567.89 €  \n\n\tfor 東京 🗼👩‍👩‍👧, e\u0301t\u00e9,\r\n   ok?<b>&amp;</b> \u00a0\u200b "

PROBES: Mapping[str, Mapping[str, Any]] = {
    "system and user": {"messages": [_SYSTEM, _QUESTION]},
    "several turns": {
        "messages": [
            _SYSTEM,
            _QUESTION,
            {"role": "assistant", "content": " No. "},
            {"role": "user", "content": "And now?"},
        ]
    },
    "unusual characters": {"messages": [{"role": "user", "content": _ODD_TEXT}]},
    "parts": {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "One"}, {"type": "text", "text": " two"}]}]
    },
    "a developer": {"messages": [_QUESTION, {"role": "developer", "content": "Be terse."}, _QUESTION]},
    "reasoning effort": {"messages": [_QUESTION], "reasoning_effort": "none"},
    "tools": {"messages": [_SYSTEM, _QUESTION], "tools": [_WEATHER], "tool_choice": "none"},
    "tools of choice": {"messages": [_QUESTION], "tools": [_WEATHER]},
    "a tool's result": {
        "messages": [_QUESTION, _CALLING, _RESULT],
        "tools": [_WEATHER],
        "tool_choice": "none",
    },
    "null content": {"messages": [_QUESTION, _CALLING, _RESULT, {"role": "assistant", "content": None}, _QUESTION]},
    "a continued message": {
        "messages": [_QUESTION, {"role": "assistant", "content": "The answer is "}],
        "add_generation_prompt": False,
        "continue_final_message": True,
    },
    "no generation prompt": {"messages": [_QUESTION], "add_generation_prompt": False},
    "special tokens": {"messages": [_QUESTION], "add_special_tokens": True},
}
