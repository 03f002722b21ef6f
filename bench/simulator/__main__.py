"""``python -m bench.simulator``: the simulated S3 as a command of its own."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from bench.simulator.behaviour import PRESETS, Behaviour, Fault
from bench.simulator.bucket import Bucket, RealFile, Source, Tree, parse_size
from bench.simulator.server import BUCKET, Server


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.simulator",
        description=f"A simulated S3 with one bucket, {BUCKET!r}. Any credentials will do.",
        epilog="Control over HTTP: GET /-/counters, GET /-/keys?prefix=P, POST /-/reset, POST /-/settings (JSON: "
        "preset, bandwidth, max_rate, faults, seed), POST /-/overwrite?key=K.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one (default)")
    parser.add_argument("--preset", choices=PRESETS, default="none", help="time to first byte (default: none)")
    parser.add_argument("--bandwidth", metavar="SIZE", help="bytes/s per connection, as in 90MB (default: no cap)")
    parser.add_argument("--max-rate", type=float, metavar="N", help="requests/s per top-level folder, above it 503")
    parser.add_argument("--fault", action="append", default=[], metavar="KIND=SHARE", help=f"of {', '.join(Fault)}")
    parser.add_argument(
        "--tree",
        action="append",
        default=[],
        type=Tree.parse,
        metavar="PREFIX:COUNT:SIZE[:PER_FOLDER]",
        help="synthetic objects, as in small:20000:100KB",
    )
    parser.add_argument("--md5", action="store_true", help="ETags of synthetic objects are the MD5s of their bytes")
    parser.add_argument("--file", action="append", default=[], metavar="KEY=PATH", help="serve a local file")
    return parser


def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    behaviour = Behaviour()
    sources: list[Source] = list(options.tree)
    try:
        behaviour.change(
            {
                "preset": options.preset,
                "bandwidth": parse_size(options.bandwidth) if options.bandwidth else None,
                "max_rate": options.max_rate,
                "faults": dict(fault.split("=", 1) for fault in options.fault),
            }
        )
        for text in options.file:
            key, _, path = text.partition("=")
            sources.append(RealFile(key, Path(path)))
        for tree in options.tree:
            tree.digested = options.md5
        server = Server(Bucket(sources), behaviour, options.host, options.port)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    print(f"listening on {server.url}", flush=True)
    server.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
