"""What many tests share: a hypothesis profile, networks that can tell right from wrong, and images in two shades."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

# As the command line does; read when torch is loaded, so it stands before that.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker has a core, and what it starts has too: threads that wait for one another across workers crawl.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from command import Answer, Ask, call_edgeprune
from hypothesis import HealthCheck, settings
from torch import Tensor, nn

from edgeprune.data import Dataset, PackedSplit
from edgeprune.zoo import NetworkSpec, build_network

# The same examples on every run: a failure is found again by running the same command. Building a network takes longer
# than the default deadline on a busy machine.
settings.register_profile(
    "repeatable", deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("repeatable")


@pytest.fixture
def ask(capfd: pytest.CaptureFixture[str]) -> Ask:
    """``ask("prune", "tiny.yaml", at=project)``: the program as its entry point runs it, in this process.

    Its file descriptors are read, so that a library that prints beside Python shows too.
    """

    def run(*arguments: str, at: Path) -> Answer:
        capfd.readouterr()
        code = call_edgeprune(*arguments, at=at)
        return Answer(code, *capfd.readouterr())

    return run


class TinyNetwork(nn.Module):
    """Two convolutions with BatchNorm, dropout and a head; learns shades of grey within an epoch."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8, momentum=0.01), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8, momentum=0.01), nn.ReLU())
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.body(self.stem(x)).mean(dim=(2, 3))))


@pytest.fixture
def tiny_network() -> Callable[..., nn.Module]:
    """``tiny_network(num_classes=2, seed=0)``: fresh weights by seed, in evaluation mode."""

    def make(num_classes: int = 2, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return TinyNetwork(num_classes).eval()

    return make


@pytest.fixture
def make_split() -> Callable[..., PackedSplit]:
    """``make_split(n, classes=2, overlap=60, size=32, name="train", seed=0)``: one shade of grey a class.

    ``overlap`` is the spread of an image's own shade; with 60, two classes overlap enough that no network is perfect.
    """

    def make(
        n: int, *, classes: int = 2, overlap: float = 60, size: int = 32, name: str = "train", seed: int = 0
    ) -> PackedSplit:
        generator = np.random.default_rng(seed)
        labels = np.arange(n) % classes
        shades = 255 * (labels + 0.5) / classes + generator.normal(0, overlap, n)
        images = shades[:, None, None, None] + generator.normal(0, 30, (n, size, size, 3))
        return PackedSplit(
            name=name,
            images=images.clip(0, 255).astype(np.uint8),
            labels=labels.astype(np.int64),
            names=tuple(f"{name}-{index:04}" for index in range(n)),
        )

    return make


@pytest.fixture
def dataset(make_split: Callable[..., PackedSplit]) -> Dataset:
    """Two overlapping classes: 96 images to learn from, 64 each to select on and to test on."""
    return Dataset(
        source="imagefolder",
        classes=("dark", "bright"),
        image_size=32,
        train=make_split(96, name="train", seed=1),
        val=make_split(64, name="val", seed=2),
        test=make_split(64, name="test", seed=3),
        digest="0" * 64,
        split_digest="1" * 64,
        skipped=(),
        credit="made by the tests",
    )


@pytest.fixture(scope="session")
def disturbed() -> Callable[..., nn.Module]:
    """``disturbed("resnet18", pad="same", size=64, num_classes=2)``: a network whose every number counts.

    In a fresh network BatchNorm shifts by nothing and scales by one, and biases are zero, so that a channel set to
    zero too early or too late would not show.
    """

    def make(network: str, *, pad: str = "torch", size: int = 64, num_classes: int = 2, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            built = build_network(NetworkSpec(network=network, num_classes=num_classes, image_size=size, pad=pad))
            for module in built.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.normal_(0, 0.1)
                    module.running_var.uniform_(0.5, 1.5)
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, 0, 0.2)
                elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                    nn.init.normal_(module.bias, 0, 0.1)
        return built

    return make


@pytest.fixture(scope="session")
def reference() -> nn.Module:
    """The reference network with fresh weights. Shared: no test may change it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_network(NetworkSpec(network="mobilenet_v3_small", num_classes=2, image_size=96))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small only wait for a second thread, and on a busy machine they wait long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
