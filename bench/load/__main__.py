"""``python -m bench.load``: one line of JSON in, ``ready`` out, ``go`` in, one line of JSON out.

The line in holds ``root`` (a folder, or a server's URL) and ``load``. Everything that the clock must not see, the
listing too, is done before ``ready``. See ``bench.load.process`` for the other side.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from bench.load import readers
from bench.load.spec import Load, Via


def _runner(root: Path, load: Load) -> readers.JobRunner:
    if load.via in (Via.PARQUET, Via.NPZ):
        from bench.load.formats import FormatReader  # its libraries take a second to import

        return FormatReader(root, load)
    return readers.FileReader(root, load)


def _list(folder: Path) -> None:
    """As ImageFolder and glob do it: names and kinds, no stat of each file."""
    with os.scandir(folder) as entries:
        for entry in entries:
            entry.is_dir()


def main() -> int:
    spec = json.loads(sys.stdin.readline())
    load = Load.from_json(spec["load"])
    if spec["root"].startswith("http://"):
        from bench.load import direct  # only one contestant needs its library

        outcome = direct.run(spec["root"], load, _go)
    else:
        root = Path(spec["root"])
        job = _runner(root, load)
        for folder in load.folders:
            _list(root / folder)
        outcome = readers.run(load, job, _go)
    print(json.dumps(asdict(outcome)), flush=True)
    return 0


def _go() -> None:
    print("ready", flush=True)
    if not sys.stdin.readline():
        sys.exit(1)  # the harness has given up


if __name__ == "__main__":
    sys.exit(main())
