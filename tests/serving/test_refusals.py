"""Contract: a client that was refused for lack of room is refused again for a moment, without asking an Ingress."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from ram_ray.serving import guard
from ram_ray.serving.guard import Guard, PlainAnswer
from ram_ray.settings.serving import ServeConfig

CONFIG = ServeConfig()
REFUSED_S = 2.0  # longer than in the server: the machine of the tests may be busy


class FullIngress:
    """A way to an Ingress that has no place left."""

    num_asked = 0

    def config(self) -> ServeConfig:
        return CONFIG

    async def ask(self, scope: Scope, body: bytes) -> PlainAnswer:
        self.num_asked += 1
        return PlainAnswer(429, [], b'{"error": {"code": "busy", "message": "256 images are already waiting"}}')


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("all requests of this test are answered by the guard")


@pytest.fixture
def ingress(monkeypatch: pytest.MonkeyPatch) -> FullIngress:
    monkeypatch.setattr(guard, "Metrics", lambda: None)  # they need a process of Ray
    monkeypatch.setattr(guard, "REFUSED_S", REFUSED_S)
    return FullIngress()


def test_the_next_refusals_come_from_the_guard(ingress: FullIngress) -> None:
    app = Guard(nothing, frontdoor=ingress)

    async def ask_all() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app, client=("10.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            answers = [await client.post("/v1/tag", content=b"x")]
            answers += await asyncio.gather(*(client.post("/v1/tag", content=b"x") for _ in range(20)))
            answers.append(await client.get("/healthz"))
            await asyncio.sleep(REFUSED_S)
            answers.append(await client.post("/v1/tag", content=b"x"))
            return answers

    answers = asyncio.run(ask_all())
    first, *again, health, last = answers
    assert {answer.status_code for answer in (first, *again, last)} == {429}
    assert {answer.json()["error"]["code"] for answer in (first, *again)} == {"busy"}
    assert all(answer.headers["retry-after"] == "1" for answer in again)
    assert health.status_code == 200
    assert ingress.num_asked == 2, "the first, and the one after a while"


def test_another_client_is_asked_for(ingress: FullIngress) -> None:
    app = Guard(nothing, frontdoor=ingress)

    async def ask(address: str) -> int:
        transport = httpx.ASGITransport(app, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return (await client.post("/v1/tag", content=b"x")).status_code

    assert asyncio.run(ask("10.0.0.1")) == asyncio.run(ask("10.0.0.2")) == 429
    assert ingress.num_asked == 2
