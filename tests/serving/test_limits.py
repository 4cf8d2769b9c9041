"""Contract: no more bytes and images than allowed are held, whatever the headers say, and all are released."""

from __future__ import annotations

import asyncio

import pytest

from ram_ray.serving.limits import ApiError, ByteBudget, Places, check_length, read_body


def body_of(*chunks: bytes):
    """An ASGI `receive` that returns these chunks, and the list of the chunks that remain."""
    remaining = list(chunks)

    async def receive() -> dict:
        return {"type": "http.request", "body": remaining.pop(0), "more_body": bool(remaining)}

    return receive, remaining


def read(receive, budget: ByteBudget, **limits) -> bytes:
    async def run() -> bytes:
        with budget.hold() as add:
            given = {"max_bytes": 25, "min_bytes_per_s": 1000, "timeout_s": 10, **limits}
            return await read_body(receive, add=add, **given)

    return asyncio.run(run())


def test_a_body_over_the_limit_is_refused_while_it_arrives() -> None:
    receive, remaining = body_of(*[b"x" * 10] * 100)
    budget = ByteBudget(1000)
    with pytest.raises(ApiError) as caught:
        read(receive, budget)
    assert caught.value.status == 413 and budget.num_bytes == 0
    assert 80 < len(remaining) < 97  # some of the rest is discarded, not all of it


def test_a_body_at_the_limit_passes() -> None:
    receive, remaining = body_of(b"x" * 20, b"y" * 5)
    assert read(receive, ByteBudget(25)) == b"x" * 20 + b"y" * 5
    assert not remaining


def test_a_body_that_stops_is_refused_and_a_client_that_is_gone_is_noticed() -> None:
    async def stop() -> dict:
        await asyncio.sleep(60)
        raise AssertionError

    with pytest.raises(ApiError) as caught:
        read(stop, ByteBudget(25), timeout_s=0.05)
    assert caught.value.status == 408

    async def leave() -> dict:
        return {"type": "http.disconnect"}

    with pytest.raises(ConnectionError):
        read(leave, ByteBudget(25))


def test_the_bytes_of_all_bodies_are_bounded_and_released() -> None:
    budget = ByteBudget(10)
    with budget.hold() as first, budget.hold() as second:
        first(6)
        with pytest.raises(ApiError) as caught:
            second(5)
        assert caught.value.status == 503
        second(4)
    assert budget.num_bytes == 0


def test_places_are_counted_in_images_and_a_newcomer_gets_its_share() -> None:
    places = Places(10, max_wait_s=100)
    with places.take(8, client="a"):
        with pytest.raises(ApiError) as caught, places.take(3, client="a"):
            pass
        assert caught.value.status == 429 and int(caught.value.headers["Retry-After"]) >= 1
        with places.take(5, client="b"), pytest.raises(ApiError):  # half of the places
            places.check(1, client="b")
    with places.take(16, client="a"):  # nothing waits: a request larger than all places is not refused for ever
        pass
    assert places.num_images == 0


def test_a_request_that_would_wait_too_long_is_refused() -> None:
    places = Places(1000, max_wait_s=1)
    places.record(4, 0.4)  # 0.1 s an image: ten may wait
    with places.take(9, client="a"):
        places.check(1, client="a")
        with pytest.raises(ApiError):
            places.check(2, client="a")


@pytest.mark.parametrize(("header", "status"), [("26", 413), ("9" * 30, 413), ("-1", 400), ("1e9", 400), ("", 400)])
def test_a_wrong_length_is_refused_before_reading(header: str, status: int) -> None:
    with pytest.raises(ApiError) as caught:
        check_length(header, max_bytes=25)
    assert caught.value.status == status


def test_a_right_length_passes() -> None:
    assert check_length("25", max_bytes=25) == 25
    assert check_length(None, max_bytes=25) is None
