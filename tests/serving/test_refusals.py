"""Contract: what an Ingress would refuse for lack of room is refused before it travels there, and no more than that."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from ram_ray.serving import guard
from ram_ray.serving.admitted import Admitted
from ram_ray.serving.guard import Guard, PlainAnswer
from ram_ray.serving.limits import ApiError
from ram_ray.settings.serving import ServeConfig

CONFIG = ServeConfig()
JSON = [(b"content-type", b"application/json")]
REFUSAL = b'{"error": {"code": "busy", "message": "4 images are already waiting"}}'


class SmallIngress:
    """A way to an Ingress with four places."""

    def __init__(self) -> None:
        self.num_asked = self.num_waiting = 0
        self.go_on = asyncio.Event()

    def config(self) -> ServeConfig:
        return CONFIG

    async def ask(self, scope: Scope, body: bytes) -> PlainAnswer:
        self.num_asked += 1
        if self.num_waiting == 4:
            return PlainAnswer(429, [*JSON, (b"retry-after", b"3")], REFUSAL)
        self.num_waiting += 1
        await self.go_on.wait()
        self.num_waiting -= 1
        return PlainAnswer(200, JSON, b"{}")


async def nothing(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("all requests of this test are answered by the guard")


def client_at(address: str, app: Guard) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(address, 1)), base_url="http://server")


@pytest.fixture(autouse=True)
def no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "Metrics", lambda: None)  # they need a process of Ray


def test_a_client_that_was_refused_may_have_as_much_in_flight_as_was_admitted() -> None:
    async def check() -> None:
        ingress = SmallIngress()
        app = Guard(nothing, frontdoor=ingress)
        async with client_at("10.0.0.1", app) as client, client_at("10.0.0.2", app) as other:
            admitted = [asyncio.create_task(client.post("/v1/tag", content=b"x")) for _ in range(4)]
            await asyncio.sleep(0)
            while ingress.num_waiting < 4:
                await asyncio.sleep(0.01)
            refused = [await client.post("/v1/tag", content=b"x") for _ in range(20)]
            assert {answer.status_code for answer in refused} == {429}
            assert {answer.json()["error"]["code"] for answer in refused} == {"busy"}
            assert {answer.headers["retry-after"] for answer in refused} == {"3"}
            assert ingress.num_asked == 5, "one refusal teaches the limit"
            assert (await client.get("/healthz")).status_code == 200
            assert (await other.post("/v1/tag", content=b"x")).status_code == 429
            assert ingress.num_asked == 6, "another client has a limit of its own"
            ingress.go_on.set()
            assert {(await task).status_code for task in admitted} == {200}
            assert (await client.post("/v1/tag", content=b"x")).status_code == 200
            assert (await other.post("/v1/tag", content=b"x")).status_code == 200

    asyncio.run(check())


def test_the_limit_grows_with_each_answer_and_is_forgotten_with_the_last_request() -> None:
    admitted = Admitted()
    with admitted.take("a", 8), admitted.take("a", 8):
        with admitted.take("a", 8):
            admitted.refused("a", 8, ApiError(429, "busy", "no place"))
        for _ in range(8):
            with pytest.raises(ApiError, match="no place"):
                admitted.check("a", 8)
            admitted.answered("a", 8)
        admitted.check("a", 8)
        with pytest.raises(ApiError, match="no place"):
            admitted.check("a", 16)
    admitted.check("a", 1000)
