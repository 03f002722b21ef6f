"""The hedger: watches GETs that have not answered and has those sent again that are late, as ``hedging`` decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from s3stream_fs.fetch.flight import Flight
from s3stream_fs.fetch.hedging import HedgePolicy

_LEAST_PAUSE_SECONDS: Final = 0.002
_MOST_PAUSE_SECONDS: Final = 0.02
"""Late GETs are looked for so often, while any are under way."""


class Hedger:
    def __init__(self, send_again: Callable[[Flight], None]) -> None:
        self._send_again = send_again
        self._policy = HedgePolicy()
        self._unanswered: dict[Flight, None] = {}
        """Started flights without a byte and without a hedge, in the order in which they started."""
        self._any_unanswered = trio.lowlevel.ParkingLot()
        self.hedged = 0
        self.won = 0

    def on_sent(self, flight: Flight) -> None:
        """A first request was sent."""
        self._policy.on_started()
        self._unanswered[flight] = None
        self._any_unanswered.unpark()

    def on_over(self, flight: Flight) -> None:
        """All requests for these bytes are over."""
        self._unanswered.pop(flight, None)
        if flight.leader is not None:
            self._policy.on_answered(len(flight.asked), flight.answered_at - flight.started_at)
            self.won += flight.leader.hedge
            flight.leader = None  # they name each other, and bytes must not wait for the collector of cycles

    async def run(self) -> None:
        """A GET for which somebody waits and which is later than most of its like is sent a second time."""
        while True:
            now = trio.current_time()
            due = self._hedge_nowait(now)
            if self._unanswered:
                await trio.sleep_until(max(due, now + _LEAST_PAUSE_SECONDS))
            else:
                await self._any_unanswered.park()

    def _hedge_nowait(self, now: float) -> float:
        """Send those again that are late now. Returns when to look again."""
        due = now + _MOST_PAUSE_SECONDS
        for flight in list(self._unanswered):
            if flight.leader is not None:
                del self._unanswered[flight]
                continue
            late_after = self._policy.late_after(len(flight.asked))
            if late_after is None or not flight.waiters:
                continue
            if now < flight.started_at + late_after:
                due = min(due, flight.started_at + late_after)
            elif self._policy.spend():
                del self._unanswered[flight]
                self.hedged += 1
                self._send_again(flight)
        return due
