"""Runs scenarios on contestants in turn and measures them. Owns the order, the cold starts and the folders."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench import machine
from bench.contestants.contestant import Contestant, ContestantFailed, Mounted, Place
from bench.load.process import LoadFailed, LoadProcess
from bench.load.spec import Load
from bench.measurement import Measurement
from bench.scenarios.scenario import Scenario, Variant
from bench.simulated import SimulatedS3, Traffic
from bench.usage import Meter, Usage

SETTLE_AT_MOST_SECONDS: Final = 2.0
"""How long read-ahead after a load's end is waited for, so that its bytes are counted where they belong."""

WRITE_BEHIND_SECONDS: Final = 2.0
"""Before a variant that reads from the disk: the contestant may still be writing its cache. A guess."""

_PASSES: Final = 6
"""Reads of everything before a disk cache counts as complete: each takes at least half of what is left."""

_TOUCHED_PER_BYTE: Final = 3
"""Memory that is touched before each load: each byte comes by a daemon's memory and one or two page caches."""

_TOUCHED_LEAST_NBYTES: Final = 64 << 20
_TOUCHED_MOST_NBYTES: Final = 3 << 30


def rotated(contestants: Sequence[Contestant], run: int) -> list[Contestant]:
    """Another one goes first in each run, so that none always meets the machine as the last one left it."""
    shift = run % len(contestants)
    return [*contestants[shift:], *contestants[:shift]]


class Harness:
    """``tell`` hears of each measurement before it starts. ``logs`` gets the log of each daemon that was in trouble."""

    def __init__(self, server: SimulatedS3, work: Path, logs: Path, preset: str, tell: Callable[[str], None]) -> None:
        self._server = server
        self._work = work
        self._logs = logs
        self._preset = preset
        self._tell = tell

    def run(self, scenarios: Sequence[Scenario], contestants: Sequence[Contestant], nruns: int) -> list[Measurement]:
        found = []
        for number, scenario in enumerate(scenarios, 1):
            for run in range(nruns):
                for contestant in rotated(contestants, run):
                    if not contestant.takes(scenario.load, warm=False):
                        continue
                    at = f"{number}/{len(scenarios)} {scenario.name}, run {run + 1}/{nruns}: {contestant.name}"
                    self._tell(at)
                    found += self._measure(scenario, contestant, run)
        return found

    def _measure(self, scenario: Scenario, contestant: Contestant, run: int) -> list[Measurement]:
        """One mount in a folder of its own, which is gone afterwards."""
        folder = Path(tempfile.mkdtemp(prefix=f"{contestant.name}-", dir=self._work))
        place = Place(self._server.url, folder, scenario.load)
        try:
            found = self._go_through(scenario, contestant, run, place)
            if any(one.trouble for one in found) and place.log.exists():
                self._logs.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(place.log, self._logs / f"{scenario.name}-{contestant.name}-{run + 1}.log")
            return found
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _go_through(self, scenario: Scenario, contestant: Contestant, run: int, place: Place) -> list[Measurement]:
        """All variants of a scenario over one mount. What fails ends it, and names the reason."""
        preset = scenario.preset or self._preset
        variants = [one for one in scenario.variants if contestant.takes(scenario.load, warm=one is not Variant.COLD)]
        found: list[Measurement] = []

        def blank(variant: Variant, failure: str = "") -> Measurement:
            row = scenario.row(variant)
            return Measurement(row, contestant.name, run, scenario.unit, preset, failure=failure)

        try:
            self._server.behave(preset, scenario.max_rate)
            self._server.reset()
            mounted = contestant.mount(place)
            try:
                load = scenario.load
                for variant in variants:
                    if variant is Variant.COMPLETE:
                        self._complete(scenario, load, mounted)
                    self._make_ready(variant, mounted)
                    measured = self._load(scenario, load, mounted, blank(variant))
                    found.append(measured)
                    if variant is Variant.COLD and measured.outcome is not None:
                        # Warm is what was read before: a slow contestant may have come to a part only.
                        load = (scenario.warm_load or load).first(measured.outcome.nfiles, measured.outcome.nreads)
            finally:
                mounted.unmount()
        except (ContestantFailed, LoadFailed, OSError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            failed, *left = variants[len(found) :] or [variants[-1]]
            found.append(blank(failed, reason))
            found += [blank(variant, "not reached") for variant in left]
        return found

    def _complete(self, scenario: Scenario, load: Load, mounted: Mounted) -> None:
        """Read until nothing more is fetched, each time without the kernel's pages."""
        for _ in range(_PASSES):
            self._make_ready(Variant.NVME, mounted)
            with LoadProcess(mounted.root, load) as process:
                self._server.reset()
                process.run()
                if self._settled(scenario).gets == 0:
                    return

    def _make_ready(self, variant: Variant, mounted: Mounted) -> None:
        if variant in (Variant.NVME, Variant.COMPLETE, Variant.REMOUNT):
            time.sleep(WRITE_BEHIND_SECONDS)
            if variant is Variant.REMOUNT:
                self._server.reset()
                mounted.remount()
        if variant is Variant.NAMES:
            machine.drop_names()
        elif variant is not Variant.MEMORY:
            machine.drop_page_cache()  # cold too: a local folder has just been written

    def _load(self, scenario: Scenario, load: Load, mounted: Mounted, blank: Measurement) -> Measurement:
        machine.touch_memory(min(_TOUCHED_PER_BYTE * load.nbytes + _TOUCHED_LEAST_NBYTES, _TOUCHED_MOST_NBYTES))
        with LoadProcess(mounted.root, load) as process:
            listing = self._server.traffic()
            self._server.reset()
            meter = Meter(mounted.pid) if mounted.pid is not None else None
            outcome = process.run()
            traffic = self._settled(scenario)
            usage = meter.usage() if meter is not None else Usage()
        return replace(blank, outcome=outcome, listing=listing, traffic=traffic, usage=usage)

    def _settled(self, scenario: Scenario) -> Traffic:
        if scenario.settle_seconds:
            time.sleep(scenario.settle_seconds)
            return self._server.traffic()
        return self._server.settled(SETTLE_AT_MOST_SECONDS)
