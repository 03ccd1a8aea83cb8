"""The part of OpenAI's bodies that the daemon reads or writes. Every other field is the engine's business."""

from typing import Annotated, Any, ClassVar, Literal

import msgspec

from preble.daemon.wire.templates import TemplateUse

_Count = Annotated[int, msgspec.Meta(ge=1)]
_Choices = Annotated[int, msgspec.Meta(ge=1, le=128)]  # OpenAI's bound; an engine would try any number
_Salt = Annotated[str, msgspec.Meta(min_length=1)]
_Prompts = Annotated[
    list[str | int | list[int]],
    msgspec.Meta(min_length=1, description="Texts, or lists of token ids, 2048 at most; or one list of token ids."),
]

MAX_PROMPTS = 2048
"""Of one request; OpenAI's bound. Each is a request of its own to an engine."""


class StreamOptions(msgspec.Struct, frozen=True):
    """`stream_options`."""

    include_usage: bool | None = None


class _Common(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: _Choices | None = None
    max_tokens: _Count | None = None
    cache_salt: _Salt | None = None
    """Keeps the cached prefix to those of the same tenant, or group, who send the same."""
    template: TemplateUse | None = None
    """What comes before the request's own messages or prompt, which can then be left out."""


class ChatRequest(_Common, frozen=True, kw_only=True):
    """`POST /v1/chat/completions`."""

    LENGTH_FIELD: ClassVar[str] = "max_completion_tokens"
    """What an answer's longest length is said with."""
    INPUT_FIELD: ClassVar[str] = "messages"
    """What it is an answer to, unless a template says that."""

    messages: list[dict[str, Any]] = []
    max_completion_tokens: _Count | None = None

    @property
    def asked_tokens(self) -> int | None:
        """The most that is wanted of each answer, if that is said."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(_Common, frozen=True, kw_only=True):
    """`POST /v1/completions`."""

    LENGTH_FIELD: ClassVar[str] = "max_tokens"
    """What an answer's longest length is said with."""
    INPUT_FIELD: ClassVar[str] = "prompt"
    """What it is an answer to, unless a template says that."""

    prompt: str | _Prompts = ""

    @property
    def asked_tokens(self) -> int | None:
        """The most that is wanted of each answer, if that is said."""
        return self.max_tokens

    @property
    def n_prompts(self) -> int:
        """How many these are. A list of numbers is one prompt's tokens."""
        return 1 if isinstance(self.prompt, str) or isinstance(self.prompt[0], int) else len(self.prompt)


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """`usage`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """What every engine says in a whole answer, to a conversation or a text. What it says beside is passed on too."""

    id: str
    object: Literal["chat.completion", "text_completion"]
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: Usage


class ModelObject(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "preble"
    max_model_len: int | None
    """Tokens of prompt and output together; None while no engine has said."""


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ProblemDetail(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    """The field of the request that is wrong."""
    code: str | None


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every error."""

    error: ProblemDetail
