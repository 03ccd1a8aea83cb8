"""A template in a request: its messages before the request's own, with values that are text and nothing else."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from preble.daemon.errors import InvalidRequest
from preble.daemon.templates.body import filled, names_in, texts_of, variables_of
from preble.daemon.templates.prefix import request_body
from preble.daemon.templates.values import marked, refuse, texts_for
from preble.daemon.wire.live import reference_of
from preble.daemon.wire.templates import TemplateBody, TemplateUse

_NEUTRAL = "\x1f"
"""Stands for a value where what is around it is looked at: no marker has it."""
_HARMLESS = "x"


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """The version that a request named, or begins with."""

    template_id: int
    name: str
    version: int
    tokens: int
    """That can be cached; 0 where nobody could say."""
    blocks: int
    """That these tokens are."""

    @property
    def reference(self) -> str:
        """As the command line has it."""
        return reference_of(self.name, self.version)


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A request's fields with the template in them."""

    fields: Mapping[str, Any]
    """In place of the request's own."""
    harmless: Mapping[str, Any] | None
    """The same with values that surely are only text, to be compared with; None where no value could be more."""
    names: tuple[str, ...]
    """The variables whose values could."""
    named: Named | None = None


def used(body: TemplateBody, use: TemplateUse, request: Mapping[str, Any], markers: Collection[str]) -> Use:
    """What a request becomes. Raises `InvalidRequest`, which names each variable that is wrong."""
    values = safe_values(body, use.variables, markers)
    texts = {name for name, variable in variables_of(body).items() if variable.type == "string"}
    suspects = tuple(name for name, value in values.items() if name in texts and value.strip())
    fields = _joined(request_body(filled(body, values)), request)
    if not suspects:
        return Use(fields=fields, harmless=None, names=())
    harmless = {name: _HARMLESS if name in suspects else value for name, value in values.items()}
    return Use(fields=fields, harmless=_joined(request_body(filled(body, harmless)), request), names=suspects)


def safe_values(body: TemplateBody, given: Mapping[str, Any], markers: Collection[str]) -> dict[str, str]:
    """A text for each variable. Raises `InvalidRequest` for each that is wrong, or has or completes a marker."""
    values = texts_for(variables_of(body), given)
    refuse(marked(values, markers) or dict(_completed(body, values, markers)))
    return values


def refuse_disguised(names: Collection[str]) -> None:
    """Raise `InvalidRequest`: one of these has become tokens that no text is to become."""
    refuse(dict.fromkeys(names, "must be text, and becomes a special token"))


def _completed(body: TemplateBody, values: Mapping[str, str], markers: Collection[str]) -> Iterator[tuple[str, str]]:
    """Markers that come about only where a value meets the text around it, or another."""
    neutral = filled(body, dict.fromkeys(values, _NEUTRAL))
    done = filled(body, dict(values))
    for written, before, after in zip(texts_of(body), texts_of(neutral), texts_of(done), strict=True):
        names = names_in(written)
        for marker in markers if names else ():
            if after.count(marker) > before.count(marker):
                yield from ((name, f"makes {marker!r} of what is around it") for name in names)


def _joined(template: dict[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    if "prompt" in template:
        rest = request.get("prompt", "")
        if not isinstance(rest, str):
            raise InvalidRequest("`prompt` must be one text where a template comes before it.", param="prompt")
        return {"prompt": template["prompt"] + rest}
    if "tools" in template and request.get("tools"):
        raise InvalidRequest("`tools` are the template's: a request cannot add to them.", param="tools")
    return {**template, "messages": [*template["messages"], *request.get("messages", ())]}
