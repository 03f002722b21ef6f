"""Train a small classifier of images that lie in class folders: ``DATA_DIR/{train,test}/CLASS/IMAGE.png``.

An ordinary PyTorch script: it knows paths and nothing else. Give it a local folder or a mount, it cannot tell which.

    python train_digits.py DATA_DIR --epochs 5 --workers 2
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

SEED = 7
BATCH = 32
LEARNING_RATE = 5e-3


class ImageFolder(Dataset[tuple[Tensor, int]]):
    """The images below ``root``, one folder per class, read from their files each time they are asked for."""

    def __init__(self, root: Path) -> None:
        with os.scandir(root) as entries:
            self.classes = sorted(entry.name for entry in entries if entry.is_dir())
        self.samples: list[tuple[str, int]] = []
        for label, name in enumerate(self.classes):
            with os.scandir(root / name) as entries:
                self.samples += sorted((entry.path, label) for entry in entries if entry.is_file())
        if not self.samples:
            raise SystemExit(f"no images in class folders below {root}")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"), dtype=np.float32) / 255
        return torch.from_numpy(pixels).unsqueeze(0), label


def make_model(nclasses: int) -> nn.Module:
    """Two convolutions and a linear layer: enough for small grey images, and quick without a GPU."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, nclasses),
    )


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch came to. ``started`` and ``ended`` are readings of the system-wide monotonic clock, in seconds."""

    epoch: int
    loss: float
    accuracy: float
    nimages: int
    started: float
    ended: float

    def __str__(self) -> str:
        rate = self.nimages / (self.ended - self.started)
        return f"epoch {self.epoch}: loss {self.loss:.3f}, test accuracy {self.accuracy:.1%}, {rate:,.0f} images/s"


def train(model: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader[tuple[Tensor, int]]) -> float:
    """One pass over the training images. Returns the mean loss of a batch."""
    model.train()
    losses: list[float] = []
    for images, labels in loader:
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader[tuple[Tensor, int]]) -> float:
    """The share of the test images that the model names rightly."""
    model.eval()
    nright = ntotal = 0
    for images, labels in loader:
        nright += int((model(images).argmax(1) == labels).sum())
        ntotal += len(labels)
    return nright / ntotal


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small classifier of images in class folders.")
    parser.add_argument("data_dir", type=Path, help="folder that holds train/ and test/, each with a folder per class")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="processes that load images (default: 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object per epoch instead of a sentence")
    options = parser.parse_args()

    torch.manual_seed(SEED)
    torch.set_num_threads(
        1
    )  # the images are tiny: more threads cost more than they compute, and change the sums' order
    started = time.monotonic()
    training = ImageFolder(options.data_dir / "train")
    testing = ImageFolder(options.data_dir / "test")
    shuffle = torch.Generator().manual_seed(SEED)
    train_loader = DataLoader(training, BATCH, shuffle=True, generator=shuffle, num_workers=options.workers)
    test_loader = DataLoader(testing, BATCH, num_workers=options.workers)
    model = make_model(len(training.classes))
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for number in range(1, options.epochs + 1):
        loss = train(model, optimizer, train_loader)
        accuracy = evaluate(model, test_loader)
        ended = time.monotonic()
        epoch = Epoch(number, loss, accuracy, len(training) + len(testing), started, ended)
        print(json.dumps(asdict(epoch)) if options.json else epoch, flush=True)
        started = ended


if __name__ == "__main__":
    main()
