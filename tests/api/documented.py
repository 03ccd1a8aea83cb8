"""An application whose every answer is held against what `/schema` says of its route."""

import json
import re
from typing import Any

from jsonschema import Draft202012Validator
from litestar import Litestar

NEVER_SEEN = {499, 500}
"""The client is gone; and what is a mistake of ours, which no document promises."""


class Documented:
    """Passes everything on, and keeps in `faults` what was not as documented. Answers of unknown routes are let be."""

    def __init__(self, app: Litestar) -> None:
        self._app = app
        self.document = app.openapi_schema.to_schema()
        routes = sorted(self.document["paths"], key=lambda route: (route.count("{"), -len(route)))
        self._patterns = {route: re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(route))) for route in routes}
        self.faults: list[str] = []
        self.seen: set[tuple[str, str, int]] = set()
        """Method, route and status of each answer."""

    async def __call__(self, scope, receive, send) -> None:
        route = self._route(scope) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        answer: dict[str, Any] = {"body": b""}

        async def overhear(message) -> None:
            if message["type"] == "http.response.start":
                answer.update(status=message["status"], headers=dict(message["headers"]))
            else:
                answer["body"] += message.get("body", b"")
            await send(message)

        await self._app(scope, receive, overhear)
        if "status" in answer:
            fault = self._fault(scope["method"], route, **answer)
            self.faults += [f"{scope['method']} {scope['path']}: {fault}"] if fault else []

    def _route(self, scope) -> str | None:
        path = scope["path"].rstrip("/")
        return next(
            (
                route
                for route, pattern in self._patterns.items()
                if pattern.fullmatch(path) and scope["method"].lower() in self.document["paths"][route]
            ),
            None,
        )

    def _fault(self, method: str, route: str, status: int, headers: dict[bytes, bytes], body: bytes) -> str | None:
        if status in NEVER_SEEN:
            return None
        self.seen.add((method, route, status))
        answers = self.document["paths"][route][method.lower()]["responses"]
        if str(status) not in answers:
            return f"{status} is not documented"
        answer = self._resolved(answers[str(status)])
        if missing := [name for name in ("x-request-id",) if name.encode() not in headers]:
            return f"{status} lacks {missing}"
        if extra := [
            name.decode() for name in headers if name.startswith(b"x-") and name.decode() not in answer["headers"]
        ]:
            return f"{status} has {extra}"
        kind = headers[b"content-type"].decode().partition(";")[0]
        if kind not in answer["content"]:
            return f"{status} is {kind}"
        if kind != "application/json":
            return None
        schema = {**answer["content"][kind]["schema"], "components": self.document["components"]}
        wrong = [error.message for error in Draft202012Validator(schema).iter_errors(json.loads(body))]
        return f"{status}: {wrong}" if wrong else None

    def _resolved(self, answer: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in answer:
            _, *way = answer["$ref"].split("/")
            answer = self.document
            for step in way:
                answer = answer[step]
        return answer
