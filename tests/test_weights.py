"""Initial weights: from a file, from torchvision's own loader, or none; what does not fit or run is refused."""

import hashlib
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgeprune.errors import EdgepruneError, InputError
from edgeprune.zoo import (
    Checkpoint,
    NetworkSpec,
    build_network,
    load_initial_weights,
    save_checkpoint,
    torchvision_models,
)

SPEC = NetworkSpec(network="mobilenet_v3_small", num_classes=2, image_size=64)
HEAD = {"classifier.3.weight", "classifier.3.bias"}


def fresh(spec: NetworkSpec = SPEC) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_network(spec)


def equal_names(network: nn.Module, state: dict[str, torch.Tensor]) -> set[str]:
    return {
        name for name, tensor in network.state_dict().items() if torch.equal(tensor, state.get(name, torch.empty(0)))
    }


@pytest.fixture
def trained(disturbed: Callable[..., nn.Module]) -> dict[str, torch.Tensor]:
    """Weights of the reference network with 1000 classes, as torchvision's are."""
    return dict(disturbed("mobilenet_v3_small", num_classes=1000, seed=1).state_dict())


# --------------------------------------------------------------------------------------------------- from files


def test_none_leaves_the_network_as_it_is() -> None:
    network = fresh()
    initial = load_initial_weights(network, spec=SPEC, weights="none")
    assert equal_names(network, dict(fresh().state_dict())) == set(network.state_dict())
    assert initial.description == "none: trained from scratch"
    assert not initial.batchnorm_folded


def test_another_number_of_classes_leaves_only_the_head_fresh(trained: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(trained, tmp_path / "imagenet.safetensors")
    network = fresh()
    initial = load_initial_weights(network, spec=SPEC, weights=str(tmp_path / "imagenet.safetensors"))
    different = set(network.state_dict()) - equal_names(network, trained)
    assert different - {name for name in trained if name.endswith("num_batches_tracked")} == HEAD
    assert equal_names(network, dict(fresh().state_dict())) >= HEAD
    digest = hashlib.sha256((tmp_path / "imagenet.safetensors").read_bytes()).hexdigest()[:16]
    assert initial.description == f"imagenet.safetensors (sha256 {digest}); fresh head classifier.3"
    assert str(tmp_path) not in initial.description  # it ends up in a published card


def test_the_same_number_of_classes_takes_the_head_as_well(disturbed: Callable[..., nn.Module], tmp_path: Path) -> None:
    state = dict(disturbed("mobilenet_v3_small", seed=1).state_dict())
    save_file(state, tmp_path / "weights.safetensors")
    network = fresh()
    initial = load_initial_weights(network, spec=SPEC, weights=str(tmp_path / "weights.safetensors"))
    assert equal_names(network, state) >= HEAD
    assert "fresh head" not in initial.description


def test_a_head_that_is_missing_stays_fresh(trained: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file({name: tensor for name, tensor in trained.items() if name not in HEAD}, tmp_path / "w.safetensors")
    assert "fresh head" in load_initial_weights(fresh(), spec=SPEC, weights=str(tmp_path / "w.safetensors")).description


def test_half_a_head_is_fresh_as_a_whole(disturbed: Callable[..., nn.Module], tmp_path: Path) -> None:
    """A trained weight beside a fresh bias would be neither."""
    state = dict(disturbed("mobilenet_v3_small", seed=1).state_dict())
    del state["classifier.3.bias"]
    save_file(state, tmp_path / "w.safetensors")
    network = fresh()
    load_initial_weights(network, spec=SPEC, weights=str(tmp_path / "w.safetensors"))
    assert not equal_names(network, state) & HEAD


def test_a_folder_of_ours_is_its_weights(disturbed: Callable[..., nn.Module], tmp_path: Path) -> None:
    network = disturbed("mobilenet_v3_small", seed=1)
    checkpoint = Checkpoint(network=network, spec=SPEC, classes=("a", "b"), mean=(0.5,) * 3, std=(0.5,) * 3)
    save_checkpoint(tmp_path / "models", checkpoint)
    loaded = fresh()
    initial = load_initial_weights(loaded, spec=SPEC, weights=str(tmp_path / "models"))
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in loaded.state_dict().items())
    assert initial.description.startswith("model.safetensors (sha256 ")


def test_batch_counters_may_be_missing(trained: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """Other tools leave them out."""
    state = {name: tensor for name, tensor in trained.items() if not name.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "w.safetensors")
    load_initial_weights(fresh(), spec=SPEC, weights=str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update({"features.0.0.weight": torch.zeros(16, 1, 3, 3)}),
         r"features\.0\.0\.weight is \(16, 1, 3, 3\), the network has \(16, 3, 3, 3\) \(1 tensors differ\)"),
        (lambda s: s.pop("features.0.0.weight"), r"features\.0\.0\.weight is missing, the network has \(16, 3, 3, 3\)"),
        (lambda s: s.update(extra=torch.zeros(3)), r"extra is \(3,\), the network has nothing of that name"),
    ],
    ids=["shape", "missing", "extra"],
)  # fmt: skip
def test_what_does_not_fit_is_named_and_nothing_is_loaded(
    trained: dict[str, torch.Tensor], tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    change(trained)
    save_file(trained, tmp_path / "w.safetensors")
    network = fresh()
    with pytest.raises(InputError, match=message):
        load_initial_weights(network, spec=SPEC, weights=str(tmp_path / "w.safetensors"))
    assert equal_names(network, dict(fresh().state_dict())) == set(network.state_dict())


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"\xff" * 64, pickle.dumps({"a": 1})])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"w\.safetensors' is damaged"):
        load_initial_weights(fresh(), spec=SPEC, weights=str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("weights", ["absent.safetensors", "./absent", "models/absent"])
def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"absent.* does not exist"):
        load_initial_weights(fresh(), spec=SPEC, weights=weights)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.safetensors' does not exist"):
        load_initial_weights(fresh(), spec=SPEC, weights=str(tmp_path))


@pytest.mark.parametrize("folded", [True, False])
def test_folded_batchnorm_is_noticed(trained: dict[str, torch.Tensor], tmp_path: Path, folded: bool) -> None:
    """Mean 0 and variance 1 everywhere; one layer with real statistics and the file is an ordinary one."""
    for name, tensor in trained.items():
        if name.endswith("running_mean"):
            trained[name] = torch.zeros_like(tensor)
        if name.endswith("running_var"):
            trained[name] = torch.ones_like(tensor)
    if not folded:
        trained["features.12.1.running_var"][7] = 0.9
    save_file(trained, tmp_path / "w.safetensors")
    initial = load_initial_weights(fresh(), spec=SPEC, weights=str(tmp_path / "w.safetensors"))
    assert initial.batchnorm_folded == folded


# ---------------------------------------------------------------------------------------------- from torchvision


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A static HTTP server: its address and its folder."""
    folder = tmp_path / "www"
    folder.mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", folder
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def publish(server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], str]:
    """Put bytes where torchvision looks for the reference network's weights; returns the address."""
    models = torchvision_models()
    entry = models.get_model_weights("mobilenet_v3_small")["IMAGENET1K_V1"]
    address, folder = server
    # The hub keeps its folder in a variable of its own, which the environment is only the default of.
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def put(content: bytes, *, digest: str | None = None, keep: bool = True) -> str:
        name = f"mobilenet_v3_small-{digest or hashlib.sha256(content).hexdigest()[:8]}.pth"
        if keep:
            (folder / name).write_bytes(content)
        # Weights entries are frozen; the value behind the enumeration's member is what holds the address.
        monkeypatch.setattr(entry, "_value_", type(entry.value)(f"{address}/{name}", entry.transforms, entry.meta))
        return f"{address}/{name}"

    return put


def saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def test_torchvisions_weights_are_downloaded_checked_and_loaded(
    publish: Callable[..., str], trained: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is printed: torch's loader writes to the stream that `--json` belongs to."""
    publish(saved(trained))
    network = fresh()
    initial = load_initial_weights(network, spec=SPEC, weights="IMAGENET1K_V1")
    assert set(trained) - equal_names(network, trained) - HEAD <= {
        name for name in trained if name.endswith("num_batches_tracked")
    }
    assert initial.description == "torchvision mobilenet_v3_small IMAGENET1K_V1; fresh head classifier.3"
    assert not initial.batchnorm_folded
    assert capsys.readouterr().out == ""


def test_the_name_default_means_the_same_file(publish: Callable[..., str], trained: dict[str, torch.Tensor]) -> None:
    publish(saved(trained))
    assert "DEFAULT" in load_initial_weights(fresh(), spec=SPEC, weights="DEFAULT").description


def test_a_second_time_nothing_is_downloaded(
    publish: Callable[..., str], server: tuple[str, Path], trained: dict[str, torch.Tensor]
) -> None:
    publish(saved(trained))
    load_initial_weights(fresh(), spec=SPEC, weights="IMAGENET1K_V1")
    for path in server[1].iterdir():
        path.unlink()
    load_initial_weights(fresh(), spec=SPEC, weights="IMAGENET1K_V1")


def test_a_file_with_another_hash_than_its_name_is_refused(
    publish: Callable[..., str], trained: dict[str, torch.Tensor]
) -> None:
    """What a captive portal or a broken mirror sends must not become the baseline."""
    address = publish(saved(trained), digest="0000abcd")
    network = fresh()
    with pytest.raises(EdgepruneError, match=f"could not be downloaded from {address}.*invalid hash") as caught:
        load_initial_weights(network, spec=SPEC, weights="IMAGENET1K_V1")
    assert "--weights none" in caught.value.remedy
    assert equal_names(network, dict(fresh().state_dict())) == set(network.state_dict())


def test_a_file_that_is_not_there_is_an_error_with_its_address(publish: Callable[..., str]) -> None:
    address = publish(b"", keep=False)
    with pytest.raises(EdgepruneError, match=rf"IMAGENET1K_V1 of mobilenet_v3_small could not .*{address}.*404"):
        load_initial_weights(fresh(), spec=SPEC, weights="IMAGENET1K_V1")


def test_without_a_network_connection_the_error_says_what_to_do(
    publish: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`weights: none` is an offer; it is never taken by itself."""
    publish(b"", keep=False)
    entry = torchvision_models().get_model_weights("mobilenet_v3_small")["IMAGENET1K_V1"]
    # A port that nothing listens on.
    nowhere = type(entry.value)("http://127.0.0.1:1/mobilenet_v3_small-01234567.pth", entry.transforms, entry.meta)
    monkeypatch.setattr(entry, "_value_", nowhere)
    with pytest.raises(EdgepruneError, match=r"could not be downloaded .*refused") as caught:
        load_initial_weights(fresh(), spec=SPEC, weights="IMAGENET1K_V1")
    assert "connect to the internet once" in caught.value.remedy


class Malicious:
    """Unpickled carelessly, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("wrap", [saved, pickle.dumps], ids=["zip", "pickle"])
def test_weights_that_would_run_code_are_refused(
    publish: Callable[..., str], tmp_path: Path, wrap: Callable[[object], bytes]
) -> None:
    """With the right hash in its name: a hash proves where a file comes from, not what it does."""
    publish(wrap({"features.0.0.weight": Malicious(tmp_path / "ran")}))
    with pytest.raises(EdgepruneError, match="IMAGENET1K_V1 of mobilenet_v3_small"):
        load_initial_weights(fresh(), spec=SPEC, weights="IMAGENET1K_V1")
    assert not (tmp_path / "ran").exists()


def test_a_download_that_is_no_state_dict_is_refused(publish: Callable[..., str]) -> None:
    publish(b"<html>login</html>")
    with pytest.raises(EdgepruneError, match="IMAGENET1K_V1 of mobilenet_v3_small"):
        load_initial_weights(fresh(), spec=SPEC, weights="IMAGENET1K_V1")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        InputError, match="'IMAGENET' is not among torchvision's weights for mobilenet_v3_small"
    ) as caught:
        load_initial_weights(fresh(), spec=SPEC, weights="IMAGENET")
    assert caught.value.remedy.startswith("one of: IMAGENET1K_V1")


def test_torchvisions_weights_are_for_torchvisions_networks() -> None:
    spec = NetworkSpec(network="package.module:function", num_classes=2, image_size=64)
    with pytest.raises(InputError, match=r"is torchvision's, but model\.network = 'package\.module:function' is not"):
        load_initial_weights(fresh(), spec=spec, weights="IMAGENET1K_V1")
