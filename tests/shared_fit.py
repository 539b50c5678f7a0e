"""A program for each process of a team: what they share, on images of its own, into a file of tensors."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from edgeprune.batchnorm import recalibrate_batchnorm
from edgeprune.data import PackedSplit
from edgeprune.distributed import ALONE, Team, join_team
from edgeprune.evaluation import predict_logits
from edgeprune.learning import Fit, FitSettings, Unfinished, fit_network

GREY = (0.5, 0.5, 0.5)
SIZE = 16


class Frozen(nn.BatchNorm2d):
    """BatchNorm that never trains: its statistics would be those of a part of the batch."""

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


class Network(nn.Module):
    """A convolution, BatchNorm and a head, and a parameter that no gradient reaches."""

    def __init__(self, norm: type[nn.BatchNorm2d]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), norm(6), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(6, 6, 3, 2, 1, bias=False), norm(6), nn.ReLU())
        self.head = nn.Linear(6, 2)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean(dim=(2, 3)))


def make_network(norm: type[nn.BatchNorm2d]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Network(norm).eval()


def make_split(name: str, n: int, seed: int) -> PackedSplit:
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    images = 90 + 60 * labels[:, None, None, None] + generator.normal(0, 60, (n, SIZE, SIZE, 3))
    names = tuple(f"{name}-{index}" for index in range(n))
    return PackedSplit(name=name, images=images.clip(0, 255).astype(np.uint8), labels=labels, names=names)


def fit(team: Team, norm: type[nn.BatchNorm2d], unfinished: Unfinished | None = None) -> Fit:
    # Neither batches nor validation images can be shared evenly.
    return fit_network(
        make_network(norm),
        train=make_split("train", 60, 1),
        val=make_split("val", 131, 2),
        loss=lambda step: functional.cross_entropy(step.logits, step.labels),
        settings=FitSettings(
            mean=GREY, std=GREY, lr=lambda _: 0.01, epochs=3, patience=None, batch_size=15, weight_decay=0.01,
            bn_momentum=0.1, augment=None, seed=0, keep="last", ema=0.8,
        ),
        unfinished=unfinished,
        team=team,
    )  # fmt: skip


def share(team: Team, out: Path) -> None:
    """All that a team shares: a fit, its going on, recalibration, logits."""
    frozen = fit(team, Frozen, Unfinished(folder=out.parent / f"unfinished-{team.size}", key="k", say=lambda _: None))
    again = fit(team, Frozen, Unfinished(folder=out.parent / f"unfinished-{team.size}", key="k", say=lambda _: None))
    assert again.resumed_after == 3
    living = fit(team, nn.BatchNorm2d)
    images = make_split("train", 300, 5).images
    recalibrated = recalibrate_batchnorm(make_network(nn.BatchNorm2d), images, mean=GREY, std=GREY, team=team)
    logits = predict_logits(make_network(nn.BatchNorm2d), make_split("v", 131, 2), mean=GREY, std=GREY, team=team)
    tensors = {f"frozen.{name}": value for name, value in frozen.network.state_dict().items()}
    tensors |= {f"living.{name}": value for name, value in living.network.state_dict().items()}
    tensors |= {f"recalibrated.{name}": value for name, value in recalibrated.state_dict().items()}
    tensors["logits"] = torch.from_numpy(logits)
    records = [
        [record.train_loss, record.train_accuracy, record.val_loss, record.val_accuracy] for record in frozen.epochs
    ]
    tensors["records"] = torch.tensor(records, dtype=torch.float64)
    save_file({name: value.contiguous() for name, value in tensors.items()}, out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    with join_team() as joined:
        share(joined, folder / f"rank-{joined.rank}.safetensors")
        if joined.rank == 0:
            joined.tell(kind="greeting", words="all")
        else:
            heard = [job["words"] for job in joined.jobs()]
            (folder / "heard.json").write_text(json.dumps(heard))
    assert "RANK" in os.environ
    assert ALONE.size == 1
