"""Contract: no more bytes and requests than allowed are in memory, whatever the headers say, and all are released."""

from __future__ import annotations

import asyncio

import pytest

from ram_ray.serving.limits import ApiError, RequestLimiter, check_length, limit_body


def body_of(*chunks: bytes):
    """An ASGI `receive` that returns these chunks, and the list of the chunks that remain."""
    remaining = list(chunks)

    async def receive() -> dict:
        return {"type": "http.request", "body": remaining.pop(0), "more_body": bool(remaining)}

    return receive, remaining


def test_a_body_over_the_limit_is_refused_while_it_arrives() -> None:
    async def run() -> None:
        receive, remaining = body_of(*[b"x" * 10] * 100)
        limiter = RequestLimiter(1, max_bytes=1000)
        async with limiter.admit() as admitted:
            receive_counted = limit_body(receive, max_bytes=25, admitted=admitted)
            await receive_counted()
            await receive_counted()
            with pytest.raises(ApiError) as caught:
                await receive_counted()
            assert caught.value.status == 413
            assert admitted.num_bytes == 20  # the chunk over the limit was never counted
            assert 80 < len(remaining) < 97  # some of the rest is discarded, not all of it
        assert (limiter.num_requests, limiter.num_bytes) == (0, 0)

    asyncio.run(run())


def test_a_body_at_the_limit_passes() -> None:
    async def run() -> None:
        receive, remaining = body_of(b"x" * 25)
        async with RequestLimiter(1, max_bytes=25).admit() as admitted:
            assert (await limit_body(receive, max_bytes=25, admitted=admitted)())["body"] == b"x" * 25
        assert not remaining

    asyncio.run(run())


def test_the_limiter_refuses_a_request_over_its_limit() -> None:
    async def run() -> None:
        limiter = RequestLimiter(1, max_bytes=10)
        async with limiter.admit():
            with pytest.raises(ApiError) as caught:
                async with limiter.admit():
                    pass
            assert caught.value.status == 429
            assert int(caught.value.headers["Retry-After"]) >= 1
        async with limiter.admit():
            pass

    asyncio.run(run())


def test_the_limiter_bounds_the_bytes_of_all_requests_together() -> None:
    async def run() -> None:
        limiter = RequestLimiter(2, max_bytes=10)
        async with limiter.admit() as first, limiter.admit() as second:
            first.add(6)
            with pytest.raises(ApiError) as caught:
                second.add(5)
            assert caught.value.status == 503
            second.add(4)
        assert limiter.num_bytes == 0

    asyncio.run(run())


@pytest.mark.parametrize(("header", "status"), [("26", 413), ("9" * 30, 413), ("-1", 400), ("1e9", 400), ("", 400)])
def test_a_wrong_length_is_refused_before_reading(header: str, status: int) -> None:
    with pytest.raises(ApiError) as caught:
        check_length(header, max_bytes=25)
    assert caught.value.status == status


def test_a_right_length_passes() -> None:
    assert check_length("25", max_bytes=25) == 25
    assert check_length(None, max_bytes=25) is None
