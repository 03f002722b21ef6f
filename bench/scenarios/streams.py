"""Large objects read in order, or nearly: one stream, several, backwards, in strides, and given up early."""

from __future__ import annotations

from dataclasses import replace

from bench.load.spec import Job, Load, Via
from bench.scenarios.scenario import WARM, Scenario, Unit
from bench.scenarios.trees import KIB, MIB, folders, jobs, whole


def scenarios(quick: bool) -> list[Scenario]:
    one = 256 * MIB if quick else 1024 * MIB
    four = 128 * MIB if quick else 512 * MIB
    many = 8 * MIB if quick else 64 * MIB
    pair = 64 * MIB if quick else 256 * MIB
    back = 64 * MIB if quick else 256 * MIB
    nearly = 4 if quick else 20

    stream_tree = f"stream:2:{one}"
    pair_tree = f"pair:1:{2 * pair}"
    stream = _load(jobs(stream_tree, 1, whole(one, MIB)))
    (pair_file,) = jobs(pair_tree, 1, ())
    first_half, second_half = whole(pair, MIB), tuple((pair + offset, nbytes) for offset, nbytes in whole(pair, MIB))
    alternating = tuple(read for both in zip(first_half, second_half, strict=True) for read in both)
    two = (replace(pair_file, reads=first_half), replace(pair_file, reads=second_half))
    backward = tuple(reversed(whole(back, MIB)))
    early = jobs(f"early:{nearly}:256MiB", nearly, whole(MIB, 128 * KIB))

    return [
        Scenario(
            "sequential",
            f"one cold stream of {one // MIB} MiB, reads of 1 MiB",
            Unit.MIB,
            stream,
            (stream_tree,),
            variants=WARM,
        ),
        Scenario(
            "sequential-none",
            f"one cold stream of {one // MIB} MiB, no latency: bound by CPU",
            Unit.MIB,
            stream,
            (stream_tree,),
            preset="none",
        ),
        Scenario(
            "sequential-4",
            f"four cold streams of {four // MIB} MiB at once",
            Unit.MIB,
            _load(jobs(f"four:4:{four}", 4, whole(four, MIB)), readers=4),
            (f"four:4:{four}",),
        ),
        Scenario(
            "sequential-64",
            f"64 cold streams of {many // MIB} MiB at once",
            Unit.MIB,
            _load(jobs(f"many:64:{many}", 64, whole(many, MIB)), readers=64),
            (f"many:64:{many}",),
        ),
        Scenario(
            "interleaved",
            f"two streams of {pair // MIB} MiB in one file: one thread alternates on one descriptor",
            Unit.MIB,
            _load((replace(pair_file, reads=alternating),)),
            (pair_tree,),
        ),
        Scenario(
            "shared-descriptor",
            f"two streams of {pair // MIB} MiB in one file: two threads, one descriptor",
            Unit.MIB,
            replace(_load(two, readers=2), via=Via.SHARED_DESCRIPTOR),
            (pair_tree,),
        ),
        Scenario(
            "two-descriptors",
            f"two streams of {pair // MIB} MiB in one file: two threads, a descriptor each",
            Unit.MIB,
            _load(two, readers=2),
            (pair_tree,),
        ),
        Scenario(
            "backward",
            f"{back // MIB} MiB in reads of 1 MiB, from the end to the start",
            Unit.MIB,
            _load(jobs(f"back:1:{back}", 1, backward)),
            (f"back:1:{back}",),
        ),
        Scenario(
            "strided",
            f"every fourth MiB of {one // MIB} MiB",
            Unit.MIB,
            _load(jobs(f"stride:1:{one}", 1, whole(one, MIB)[::4])),
            (f"stride:1:{one}",),
        ),
        Scenario(
            "early-stop",
            f"the first MiB of {nearly} files of 256 MiB in reads of 128 KiB, then closed",
            Unit.FILES,
            _load(early),
            (f"early:{nearly}:256MiB",),
            settle_seconds=1.0,
        ),
    ]


def _load(work: tuple[Job, ...], readers: int = 1) -> Load:
    return Load(work, readers, folders=folders(work))
