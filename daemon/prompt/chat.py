"""Reads a chat request the way vLLM does before it renders it. Knows no template and no tokenizer.

What is not understood completely is `NotReproducible`, never skipped: an engine then reads it itself, and refuses it in
its own words if it is wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json import JSONDecodeError, loads
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from preble.daemon.errors import InvalidRequest
from preble.daemon.prompt.refusal import NotReproducible

Message = dict[str, Any]

_ENGINE_ARGUMENTS = frozenset(
    {
        "add_generation_prompt", "chat_template", "continue_final_message", "conversation", "documents", "max_length",
        "messages", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors", "self", "tokenize",
        "tokenizer_kwargs", "tools", "truncation",
    }
)  # fmt: skip
"""Names in `chat_template_kwargs` that reach the engine's renderer itself and not its template."""
_BILLING_HEADER = "x-anthropic-billing-header"
"""System text that vLLM drops, up to the end of its line."""


@dataclass(frozen=True, slots=True)
class Chat:
    """What a template is given."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None
    documents: list[dict[str, str]] | None
    add_generation_prompt: bool
    continue_final_message: bool
    """Leave the last message open at the end of its text. Never together with `add_generation_prompt`."""
    variables: Mapping[str, Any]
    """Further names, from `chat_template_kwargs` and `reasoning_effort`."""


class ChatBody(msgspec.Struct, frozen=True):
    """The part of a chat request's body on which its prompt depends."""

    messages: Annotated[list["_Message"], msgspec.Meta(min_length=1)]
    tools: list["_Tool"] | None = None
    documents: list[dict[str, str]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    chat_template: None = None
    truncate_prompt_tokens: None = None
    kv_transfer_params: None = None

    def chat(self, *, content_as_parts: bool) -> Chat:
        """Return what the template is given, which takes a message's content as a list of parts or as one text.

        Raises `InvalidRequest` and `NotReproducible`.
        """
        if self.continue_final_message and self.add_generation_prompt:
            message = "`continue_final_message` needs `add_generation_prompt` to be false."
            raise InvalidRequest(message, param="continue_final_message")
        return Chat(
            messages=[message.read(as_parts=content_as_parts) for message in self.messages],
            tools=None if self.tools is None else [tool.read() for tool in self.tools],
            documents=self.documents,
            add_generation_prompt=self.add_generation_prompt,
            continue_final_message=self.continue_final_message,
            variables=self._variables(),
        )

    def _variables(self) -> Mapping[str, Any]:
        """Merge as vLLM does, which takes null and "auto" for absent."""
        given = self.chat_template_kwargs or {}
        if taken := sorted(_ENGINE_ARGUMENTS & given.keys()):
            raise NotReproducible(f"chat_template_kwargs has {', '.join(taken)}")
        variables = dict(given)
        if self.reasoning_effort is not None:
            variables["reasoning_effort"] = self.reasoning_effort
            variables.setdefault("enable_thinking", self.reasoning_effort != "none")
        return {name: value for name, value in variables.items() if value is not None and value != "auto"}


def read_body(body: Mapping[str, Any]) -> ChatBody:
    """Raises `InvalidRequest` and `NotReproducible`."""
    if body.get("tools") == []:
        raise InvalidRequest("`tools` is empty: leave it out, or name a tool.", param="tools")
    try:
        return msgspec.convert(body, ChatBody)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # the latter for half of a surrogate pair
        raise NotReproducible(str(error)) from error


# Below, the order of fields is the order in which vLLM shows them to a template; some templates print them as JSON.


class _Function(msgspec.Struct, frozen=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    defer_loading: None = None


class _Tool(msgspec.Struct, frozen=True):
    function: _Function
    type: Literal["function"] = "function"
    defer_loading: None = None

    def read(self) -> dict[str, Any]:
        function = self.function
        shown = {"name": function.name, "description": function.description, "parameters": function.parameters}
        return {
            "type": self.type,
            "function": shown if function.strict is None else {**shown, "strict": function.strict},
        }


class _CalledFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    arguments: str
    name: str


class _ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    function: _CalledFunction
    type: Literal["function"]
    index: int | UnsetType = UNSET

    def read(self) -> dict[str, Any]:
        call: dict[str, Any] = msgspec.to_builtins(self)
        call["function"]["arguments"] = _arguments(self.function.arguments)
        return call


class _TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str
    cache_control: dict[str, Any] | UnsetType = UNSET

    def read(self) -> dict[str, Any]:
        shown = {"type": self.type, "text": self.text}
        return shown if self.cache_control is UNSET else {**shown, "cache_control": self.cache_control}


class _Message(msgspec.Struct, frozen=True):
    role: str
    content: str | list[_TextPart] | UnsetType | None = UNSET
    tool_calls: list[_ToolCall] | UnsetType | None = UNSET
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_call_id: str | UnsetType | None = UNSET
    name: str | UnsetType = UNSET
    task: str | UnsetType | None = UNSET
    tools: None = None

    def read(self, *, as_parts: bool) -> Message:
        message: Message = {"role": self.role, "content": self._content(as_parts)}
        if self.role == "assistant":
            self._read_assistant(message)
        elif self.role == "tool" and self.tool_call_id is not UNSET:
            message["tool_call_id"] = self.tool_call_id
        if self.name is not UNSET:
            message["name"] = self.name
        if isinstance(self.task, str):
            message["task"] = self.task
        if self.role == "developer":
            message["tools"] = None
        return message

    def _content(self, as_parts: bool) -> str | list[dict[str, Any]]:
        if self.content is None and (self.role != "assistant" or self.tool_calls is None):
            raise NotReproducible(f"null content of role {self.role}")
        parts = self._parts()
        if self.role == "system" and any(part.text.startswith(_BILLING_HEADER) for part in parts):
            raise NotReproducible("a billing header in a system message")
        if not as_parts:
            return "\n".join(part.text for part in parts if part.text)
        if self.role == "tool":
            return "\n".join(part.text for part in parts)
        return [part.read() for part in parts]

    def _parts(self) -> list[_TextPart]:
        if isinstance(self.content, str):
            return [_TextPart("text", self.content)]
        return self.content or []

    def _read_assistant(self, message: Message) -> None:
        if self.tool_calls:
            message["tool_calls"] = [call.read() for call in self.tool_calls]
        reasoning = self.reasoning_content if self.reasoning is None else self.reasoning
        if reasoning is not None:
            message["reasoning"] = message["reasoning_content"] = reasoning


def without_developer(messages: Sequence[Message]) -> list[Message]:
    """Make developer messages system messages and, should that leave one behind the first place, all systems one."""
    plain = [_as_system(message) if message["role"] == "developer" else message for message in messages]
    systems = [message for message in plain if message["role"] == "system"]
    if systems == plain[:1]:
        return plain
    texts = [_whole_text(message["content"]) for message in systems]
    merged: Message = {"role": "system", "content": "\n\n".join(filter(None, texts))}
    return [merged, *(message for message in plain if message["role"] != "system")]


def _as_system(message: Message) -> Message:
    return {**{name: value for name, value in message.items() if name != "tools"}, "role": "system"}


def _whole_text(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def _arguments(written: str) -> dict[str, Any]:
    """Read a tool call's arguments; what is no JSON object counts as an empty one."""
    try:
        arguments = loads(written)
    except JSONDecodeError:
        return {}
    except (ValueError, RecursionError) as error:
        raise NotReproducible("a tool call's arguments are too large or nested too deeply") from error
    return arguments if isinstance(arguments, dict) else {}
