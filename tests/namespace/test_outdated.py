from __future__ import annotations

from s3stream_fs.namespace.outdated import Outdated


def test_only_what_was_asked_for_later_is_believed() -> None:
    outdated = Outdated()
    assert outdated.believes(b"version", 0)
    before = outdated.moment
    assert outdated.report(b"version", 10.0)
    assert outdated.holds(b"version")
    assert not outdated.believes(b"version", before)
    assert outdated.believes(b"another", before)
    after = outdated.moment
    assert outdated.holds(b"version")
    assert outdated.believes(b"version", after)  # it has come back
    assert not outdated.holds(b"version")
    assert outdated.believes(b"version", after)


def test_the_same_version_counts_once_in_a_while() -> None:
    outdated = Outdated()
    assert outdated.report(b"version", 10.0)
    assert not outdated.report(b"version", 10.5)
    assert outdated.report(b"another", 10.5)
    assert outdated.believes(b"version", outdated.moment)
    assert not outdated.report(b"version", 10.9)  # also where somebody has seen it meanwhile
    assert not outdated.holds(b"version")
    assert outdated.report(b"version", 11.0)
    assert outdated.holds(b"version")


def test_versions_are_not_kept_for_ever() -> None:
    outdated = Outdated()
    for number in range(30_000):
        assert outdated.report(b"%d" % number, 0.0)
    assert outdated.holds(b"29999")
    assert not outdated.holds(b"0")
