from __future__ import annotations

from s3stream_fs.fetch.queue import Priority, RequestQueue


def drained(queue: RequestQueue[str]) -> list[str]:
    order = []
    for priority in Priority:
        while (request := queue.peek(priority)) is not None:
            queue.discard(request)
            order.append(request)
    return order


def test_demand_goes_before_read_ahead_and_first_come_first_served() -> None:
    queue: RequestQueue[str] = RequestQueue()
    queue.push("ahead 1", Priority.READ_AHEAD)
    queue.push("demand 1", Priority.DEMAND)
    queue.push("ahead 2", Priority.READ_AHEAD)
    queue.push("demand 2", Priority.DEMAND)
    assert len(queue) == 4
    assert queue.count(Priority.READ_AHEAD) == 2
    assert drained(queue) == ["demand 1", "demand 2", "ahead 1", "ahead 2"]


def test_promoted_request_waits_behind_those_of_its_new_priority() -> None:
    queue: RequestQueue[str] = RequestQueue()
    queue.push("ahead", Priority.READ_AHEAD)
    queue.push("demand", Priority.DEMAND)
    assert queue.promote("ahead", Priority.DEMAND)
    assert not queue.promote("ahead", Priority.DEMAND)
    assert not queue.promote("never pushed", Priority.DEMAND)
    assert drained(queue) == ["demand", "ahead"]


def test_discarded_request_is_gone() -> None:
    queue: RequestQueue[str] = RequestQueue()
    queue.push("one", Priority.READ_AHEAD)
    assert queue.discard("one")
    assert not queue.discard("one")
    assert len(queue) == 0
