"""Callers of the admin routes, and what they are told."""


class Caller:
    """Sends requests with a key."""

    def __init__(self, client, key: str) -> None:
        self._client = client
        self._headers = {"authorization": f"Bearer {key}"}

    async def get(self, path: str, **query):
        return await self.send("GET", path, **query)

    async def post(self, path: str, json: object = None, content: bytes | None = None, **query):
        return await self.send("POST", path, json=json, content=content, **query)

    async def patch(self, path: str, json: object = None, headers: dict | None = None, **query):
        return await self.send("PATCH", path, json=json, headers=headers, **query)

    async def delete(self, path: str, headers: dict | None = None, **query):
        return await self.send("DELETE", path, headers=headers, **query)

    async def send(self, method: str, path: str, *, json=None, content=None, headers=None, **query):
        return await self._client.request(
            method, path, headers={**self._headers, **(headers or {})}, params=query, json=json, content=content
        )


def problem(response) -> dict:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]
