"""Templates: named beginnings of prompts, with variables. The same over HTTP, in files and in the database."""

from typing import Annotated, Any, Literal

import msgspec

TEMPLATE_NAME = "[a-z0-9][a-z0-9._-]{0,62}"
"""What templates may be called, as a regular expression: it is to fit into URLs and file names."""
LABEL = "[a-z][a-z0-9._-]{0,62}"
"""What labels may be called; no number, for that is a version."""
VARIABLE = "[A-Za-z_][A-Za-z0-9_]{0,62}"
LATEST, PRODUCTION = "latest", "production"
"""The newest version, which nobody can move; and what is taken where a request names neither version nor label."""

MAX_BODY_CHARS = 1 << 20
"""Of a body and its variables, as JSON."""

Messages = Annotated[list["TemplateMessage"], msgspec.Meta(min_length=1, max_length=1000)]
Tools = Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1, max_length=1000)]
_Name = Annotated[str, msgspec.Meta(max_length=63)]
_Number = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_Description = Annotated[str, msgspec.Meta(max_length=2000)]


class Variable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What may stand in place of `{{NAME}}`."""

    type: Literal["string", "integer", "number", "boolean"] = "string"
    required: bool | None = None
    """None: yes, unless there is a default. What is neither required nor has a default is empty."""
    default: Any = None
    max_length: Annotated[int, msgspec.Meta(ge=1, le=MAX_BODY_CHARS)] = 10_000
    """Characters of a value."""
    description: Annotated[str, msgspec.Meta(max_length=500)] = ""

    @property
    def is_required(self) -> bool:
        """Whether a request must give it."""
        return self.default is None if self.required is None else self.required


class TextPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a message's content."""

    type: Literal["text"] = "text"
    text: str


class TemplateMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One message; its content may have variables, all else is taken as it is."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class TemplateBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a version is: either a text, for completions, or messages and perhaps tools, for chats."""

    text: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    messages: Messages | None = None
    tools: Tools | None = None
    variables: Annotated[dict[str, Variable], msgspec.Meta(max_length=100)] = {}
    """Those of which more is to be said than that they are required texts."""
    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    """The only one it is for; None: every model."""


class TemplateCreate(TemplateBody, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Body of `POST /v1/templates`."""

    name: Annotated[str, msgspec.Meta(max_length=63, extra_json_schema={"pattern": f"^{TEMPLATE_NAME}$"})]
    description: _Description | None = None
    """None: as it was."""


class TemplateUse(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`template` in a request: what its messages, or its prompt, come after."""

    name: _Name
    version: _Number | None = None
    label: _Name | None = None
    """None, with no version: `production` if there is such a label, else the newest version."""
    variables: dict[str, Any] = {}


class TemplateRender(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /v1/templates/NAME/render`."""

    version: _Number | None = None
    label: _Name | None = None
    variables: dict[str, Any] = {}


class LabelMove(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `PUT /v1/templates/NAME/labels/LABEL`."""

    version: _Number


class Parting(msgspec.Struct, frozen=True, kw_only=True):
    """Another template that begins with the same tokens."""

    name: str
    owner: str | None
    version: int
    shared_tokens: int
    """Equal from the beginning on; what is cached of them, in whole blocks, serves both."""
    ours: str | None
    """The first token that differs, as text; None: here the part without variables ends."""
    theirs: str | None


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What would make more of a template cacheable."""

    variables: list[str]
    """Those to be moved behind the text that is always the same."""
    more_tokens: int
    text: str


class Analysis(msgspec.Struct, frozen=True, kw_only=True):
    """A version, as one model's tokens."""

    model: str
    tokens: int
    """Of the template with empty variables, without what comes after it."""
    prefix_tokens: int
    """Of its beginning that is the same whatever the variables are."""
    block_tokens: int
    """Engines cache whole blocks of so many."""
    cacheable_tokens: int
    """The whole blocks of that beginning."""
    cacheable_ratio: float
    """Of all its tokens."""
    shares: list[Parting]
    advice: list[Advice]
    problem: str | None = None
    """Why this model cannot take it; then all else is empty."""


class VersionRow(msgspec.Struct, frozen=True, kw_only=True):
    """One version, without its body."""

    version: int
    digest: str
    """SHA-256 of body and variables: equal ones are one version."""
    created_at: str
    created_by: str
    """The id of a key."""
    labels: list[str]


class VersionPage(msgspec.Struct, frozen=True, kw_only=True):
    """Versions, newest first."""

    rows: list[VersionRow]
    next: int | None
    """`before` of the next page; None: this is the last."""


class TemplateRow(msgspec.Struct, frozen=True, kw_only=True):
    """A template."""

    name: str
    owner: str | None
    """None: the operator's, shared by all tenants."""
    description: str
    created_at: str
    created_by: str
    """The id of a key."""
    latest: int
    """Its newest version."""
    labels: dict[str, int]
    changes: int
    """Counts its changes; also the ETag."""


class TemplatePage(msgspec.Struct, frozen=True, kw_only=True):
    """Templates, by name; a tenant's own one before the operator's of the same name, which it hides."""

    rows: list[TemplateRow]
    next: str | None
    """`after` of the next page; None: this is the last."""


class TemplateVersion(TemplateRow, frozen=True, kw_only=True):
    """A template, with one of its versions."""

    version: int
    digest: str
    body: TemplateBody
    variables: dict[str, Variable]
    """All of them, those included of which nothing was said."""
    analyses: list[Analysis]


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """A template with values in place of its variables."""

    name: str
    version: int
    text: str | None
    messages: list[dict[str, Any]] | None
    tools: list[dict[str, Any]] | None
