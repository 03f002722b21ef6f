from __future__ import annotations

import pytest

from s3stream_fs.fetch.queue import Priority, RequestQueue


def drained(queue: RequestQueue[str]) -> list[str]:
    """All that waits, as it is taken."""
    order = []
    for priority in Priority:
        while (request := queue.peek(priority)) is not None:
            assert queue.pop(priority) == request
            order.append(request)
    assert len(queue) == 0
    return order


def filled(*requests: str, priority: Priority = Priority.DEMAND) -> RequestQueue[str]:
    """A queue of requests whose first letter is their owner."""
    queue: RequestQueue[str] = RequestQueue()
    for request in requests:
        queue.push(request, priority, request[0])
    return queue


def test_demand_goes_before_read_ahead_and_first_come_first_served() -> None:
    queue: RequestQueue[str] = RequestQueue()
    queue.push("ahead 1", Priority.READ_AHEAD, "owner")
    queue.push("demand 1", Priority.DEMAND, "owner")
    queue.push("ahead 2", Priority.READ_AHEAD, "owner")
    queue.push("demand 2", Priority.DEMAND, "owner")
    assert len(queue) == 4
    assert queue.count(Priority.READ_AHEAD) == 2
    assert drained(queue) == ["demand 1", "demand 2", "ahead 1", "ahead 2"]


def test_promoted_request_waits_behind_those_of_its_new_priority() -> None:
    queue: RequestQueue[str] = RequestQueue()
    queue.push("ahead", Priority.READ_AHEAD, "owner")
    queue.push("demand", Priority.DEMAND, "owner")
    assert queue.promote("ahead", Priority.DEMAND, "owner")
    assert not queue.promote("ahead", Priority.DEMAND, "owner")
    assert not queue.promote("never pushed", Priority.DEMAND, "owner")
    assert (queue.count(Priority.DEMAND), queue.count(Priority.READ_AHEAD)) == (2, 0)
    assert drained(queue) == ["demand", "ahead"]


def test_discarded_request_is_gone() -> None:
    queue: RequestQueue[str] = RequestQueue()
    queue.push("one", Priority.READ_AHEAD, "owner")
    assert not queue.discard("one", "another owner")
    assert queue.discard("one", "owner")
    assert not queue.discard("one", "owner")
    assert len(queue) == 0
    assert queue.peek(Priority.READ_AHEAD) is None


def test_taking_from_where_nothing_waits_is_an_error() -> None:
    queue = filled("a1", priority=Priority.READ_AHEAD)
    with pytest.raises(IndexError):
        queue.pop(Priority.DEMAND)
    assert queue.pop(Priority.READ_AHEAD) == "a1"
    with pytest.raises(IndexError):
        queue.pop(Priority.READ_AHEAD)


def test_owners_take_turns_within_a_priority() -> None:
    queue = filled("a1", "a2", "a3", "a4", "b1", "b2", "c1", priority=Priority.READ_AHEAD)
    assert drained(queue) == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_a_new_owner_waits_for_one_turn_of_each_other_and_not_for_all_their_requests() -> None:
    queue = filled("a1", "a2", "a3", "b1", "b2", "b3")
    assert queue.pop(Priority.DEMAND) == "a1"
    queue.push("c1", Priority.DEMAND, "c")
    assert drained(queue) == ["b1", "a2", "c1", "b2", "a3", "b3"]


def test_turns_of_one_priority_do_not_count_in_another() -> None:
    queue = filled("a1", "b1", "a2", "b2")
    for request in ("b3", "a3", "b4", "a4"):
        queue.push(request, Priority.READ_AHEAD, request[0])
    assert queue.pop(Priority.DEMAND) == "a1"
    assert drained(queue) == ["b1", "a2", "b2", "b3", "a3", "b4", "a4"]


def test_a_promoted_request_goes_in_its_owners_turn() -> None:
    queue = filled("a1", "a2", "b1")
    queue.push("b2", Priority.READ_AHEAD, "b")
    assert queue.promote("b2", Priority.DEMAND, "b")
    assert drained(queue) == ["a1", "b1", "a2", "b2"]


def test_an_owner_that_has_nothing_left_is_passed_over() -> None:
    queue = filled("a1", "b1", "c1", "a2", "c2")
    assert queue.discard("b1", "b")
    assert drained(queue) == ["a1", "c1", "a2", "c2"]


def test_withdrawing_or_promoting_a_request_does_not_cost_its_owner_the_turn() -> None:
    queue = filled("a1", "a2", "a3", "a4", "b1", priority=Priority.READ_AHEAD)
    assert queue.discard("a3", "a")
    assert queue.promote("a1", Priority.DEMAND, "a")
    assert drained(queue) == ["a1", "a2", "b1", "a4"]
