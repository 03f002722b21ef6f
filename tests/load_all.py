"""Reads every file below a folder through a PyTorch DataLoader, twice, and prints the sha256 of what came back.

A program of its own for tests/test_training.py: how workers start must not depend on the test process.

    python load_all.py FOLDER {fork,forkserver,spawn}
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

NWORKERS = 2
NEPOCHS = 2
BATCH = 3


class Files(Dataset[tuple[str, bytes]]):
    """All files below ``folder``: their relative paths and their bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[str, bytes]:
        return self.names[index], (self.folder / self.names[index]).read_bytes()


def main() -> None:
    files = Files(Path(sys.argv[1]))
    loader = DataLoader(
        files,
        BATCH,
        shuffle=True,
        num_workers=NWORKERS,
        collate_fn=list,
        multiprocessing_context=sys.argv[2],
        persistent_workers=True,
    )
    for _ in range(NEPOCHS):
        epoch = {name: hashlib.sha256(data).hexdigest() for batch in loader for name, data in batch}
        print(json.dumps(epoch), flush=True)


if __name__ == "__main__":
    main()
