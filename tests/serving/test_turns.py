"""Contract: clients and their requests take turns by cost; a newcomer passes those that have had more."""

from __future__ import annotations

import itertools

from ram_ray.serving.turns import Turns


def take_all(turns: Turns[str]) -> str:
    taken = []
    while (item := turns.pop()) is not None:
        taken.append(item)
    assert not len(turns)
    return "".join(taken)


def test_one_image_beside_many_of_another_client_is_next() -> None:
    turns: Turns[str] = Turns()
    for _ in range(8):
        turns.push("a", client=1, request=1, cost=1)
    assert turns.pop() == "a"
    turns.push("b", client=2, request=2, cost=1)
    assert turns.pop() == "b", "the other client was given one more"
    assert take_all(turns) == "a" * 7


def test_requests_of_one_client_take_turns() -> None:
    turns: Turns[str] = Turns()
    for item, request in ("a", 1), ("a", 1), ("a", 1), ("b", 2), ("b", 2), ("c", 3):
        turns.push(item, client=1, request=request, cost=1)
    assert take_all(turns) == "abcaba"


def test_a_small_image_is_before_large_ones_and_waiting_earns_nothing() -> None:
    turns: Turns[str] = Turns()
    for request in range(3):
        turns.push("L", client=1, request=request, cost=50)
        turns.push("L", client=1, request=request, cost=50)
    turns.push("s", client=1, request=9, cost=1)
    assert turns.pop() == "s"
    assert turns.pop() == "L"
    turns.push("s", client=1, request=10, cost=1)
    assert take_all(turns) == "sLLLLL"


def test_an_item_that_does_not_fit_holds_up_no_other_and_a_request_can_be_removed() -> None:
    turns: Turns[str] = Turns()
    turns.push("L", client=1, request=1, cost=1)
    turns.push("s", client=1, request=2, cost=5)
    assert turns.pop(lambda item: item != "L") == "s"
    assert turns.pop(lambda item: item != "L") is None
    assert turns.remove(client=1, request=1) == 1 and turns.remove(client=1, request=1) == 0
    assert turns.pop() is None and len(turns) == 0


def test_a_newcomer_is_next_and_a_flood_of_newcomers_starves_nobody() -> None:
    turns: Turns[str] = Turns()
    for request in range(8):
        for _ in range(16):
            turns.push("a", client=1, request=request, cost=1.05)
    assert [turns.pop() for _ in range(8)] == ["a"] * 8
    for number in range(30):
        for _ in range(3):
            assert turns.pop() == "a"
        turns.push("n", client=1 + number % 2, request=100 + number, cost=1.05)
        assert turns.pop() == "n", "it waited for others that came before it"
    flooded: Turns[str] = Turns()
    for _ in range(8):
        flooded.push("a", client=1, request=0, cost=1)
    taken = []
    for number in range(120):
        flooded.push("n", client=1 + number % 2 * number, request=1 + number, cost=1)
        taken.append(flooded.pop())
    assert taken.count("a") == 8


def test_an_image_that_is_a_little_larger_than_others_does_not_wait_for_all_of_them() -> None:
    turns: Turns[int] = Turns()
    number = itertools.count()
    left: dict[int, int] = {}

    def send() -> None:
        request = next(number)
        left[request] = 16
        for _ in range(16):
            turns.push(request, client=1, request=request, cost=1.06 if request == 0 else 1.05)

    for _ in range(8):
        send()
    taken = 0
    while left[0] and taken < 1000:
        request = turns.pop()
        assert request is not None
        taken += 1
        left[request] -= 1
        if not left[request]:
            send()
    assert not left[0] and taken <= 1.1 * 8 * 16, "eight requests share the server, each has an eighth of it"
