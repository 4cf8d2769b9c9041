"""Contract: no more bytes and requests than allowed are held, whatever headers promise, and all are given back."""

from __future__ import annotations

import asyncio

import pytest

from ram_ray.serving.limits import ApiError, Gate, bounded, check_length


def body_of(*chunks: bytes):
    """An ASGI `receive` that hands out these chunks, and the list of those not asked for yet."""
    left = list(chunks)

    async def receive() -> dict:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    return receive, left


def test_a_body_over_the_limit_is_refused_as_it_comes() -> None:
    async def run() -> None:
        receive, left = body_of(*[b"x" * 10] * 100)
        gate = Gate(1, max_bytes=1000)
        async with gate.admit() as held:
            counted = bounded(receive, max_bytes=25, held=held)
            await counted()
            await counted()
            with pytest.raises(ApiError) as caught:
                await counted()
            assert caught.value.status == 413
            assert held.num_bytes == 20  # the byte too many was never held
            assert 80 < len(left) < 97  # some of the rest is thrown away, not all of it
        assert (gate.num_requests, gate.num_bytes) == (0, 0)

    asyncio.run(run())


def test_a_body_at_the_limit_passes() -> None:
    async def run() -> None:
        receive, left = body_of(b"x" * 25)
        async with Gate(1, max_bytes=25).admit() as held:
            assert (await bounded(receive, max_bytes=25, held=held)())["body"] == b"x" * 25
        assert not left

    asyncio.run(run())


def test_the_gate_tells_the_next_one_to_come_back() -> None:
    async def run() -> None:
        gate = Gate(1, max_bytes=10)
        async with gate.admit():
            with pytest.raises(ApiError) as caught:
                async with gate.admit():
                    pass
            assert caught.value.status == 429
            assert int(caught.value.headers["Retry-After"]) >= 1
        async with gate.admit():
            pass

    asyncio.run(run())


def test_the_gate_bounds_the_bytes_of_all_requests_together() -> None:
    async def run() -> None:
        gate = Gate(2, max_bytes=10)
        async with gate.admit() as first, gate.admit() as second:
            first.add(6)
            with pytest.raises(ApiError) as caught:
                second.add(5)
            assert caught.value.status == 503
            second.add(4)
        assert gate.num_bytes == 0

    asyncio.run(run())


@pytest.mark.parametrize(("header", "status"), [("26", 413), ("9" * 30, 413), ("-1", 400), ("1e9", 400), ("", 400)])
def test_a_wrong_length_is_refused_before_reading(header: str, status: int) -> None:
    with pytest.raises(ApiError) as caught:
        check_length(header, max_bytes=25)
    assert caught.value.status == status


def test_a_right_length_passes() -> None:
    assert check_length("25", max_bytes=25) == 25
    assert check_length(None, max_bytes=25) is None
