"""Initial weights: from a file, from torchvision's or timm's loader, or none; what does not fit or run is refused."""

import hashlib
import importlib
import io
import pickle
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as serialise
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


# ----------------------------------------------------------------------------------------------------- from timm

TIMM = NetworkSpec(network="timm/mobilenetv3_small_050", num_classes=2, image_size=64)
TIMM_HEAD = {"classifier.weight", "classifier.bias"}


@pytest.fixture
def timms() -> nn.Module:
    """timm's own network with 1000 classes, where every number counts."""
    torchvision_models()  # before timm imports it
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network: nn.Module = importlib.import_module("timm").create_model("mobilenetv3_small_050").eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                nn.init.uniform_(module.weight, 0.5, 1.5)
    return network


def features(network: nn.Module) -> torch.Tensor:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # Both are timm's class: what its head is given.
        return network.forward_head(network.forward_features(images), pre_logits=True)


def test_a_file_with_timms_names_is_loaded(timms: nn.Module, tmp_path: Path) -> None:
    """timm calls it `bn1.weight`; here BatchNorm and activation are two layers."""
    save_file(timms.state_dict(), tmp_path / "w.safetensors")
    network = fresh(TIMM)
    head = {name: network.state_dict()[name].clone() for name in TIMM_HEAD}
    initial = load_initial_weights(network, spec=TIMM, weights=str(tmp_path / "w.safetensors"))
    assert torch.equal(features(network), features(timms))
    assert features(network).any()
    assert all(torch.equal(network.state_dict()[name], head[name]) for name in TIMM_HEAD)
    assert initial.description.endswith("; fresh head classifier")


def test_a_folder_of_ours_fits_a_network_of_timms(tmp_path: Path) -> None:
    network = fresh(TIMM)
    nn.init.ones_(network.bn1.norm.weight.data)
    network.bn1.norm.weight.data += 1
    save_checkpoint(
        tmp_path / "own", Checkpoint(network=network, spec=TIMM, classes=("a", "b"), mean=(0.5,) * 3, std=(0.5,) * 3)
    )
    other = fresh(TIMM)
    load_initial_weights(other, spec=TIMM, weights=str(tmp_path / "own"))
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in other.state_dict().items())


def test_a_file_that_does_not_fit_a_network_of_timms_is_named(timms: nn.Module, tmp_path: Path) -> None:
    state = dict(timms.state_dict())
    del state["bn1.weight"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"bn1\.norm\.weight is missing, the network has \(16,\)"):
        load_initial_weights(fresh(TIMM), spec=TIMM, weights=str(tmp_path / "w.safetensors"))


class Hub(SimpleHTTPRequestHandler):
    """Answers for files as huggingface.co does: with a revision and a hash."""

    def log_message(self, *_: object) -> None:
        pass

    def end_headers(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.is_file():
            self.send_header("ETag", f'"{hashlib.sha256(path.read_bytes()).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
        super().end_headers()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in the place of huggingface.co."""
    folder = tmp_path / "hub"
    folder.mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, directory=str(folder)))
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    address = f"http://127.0.0.1:{httpd.server_port}"
    constants = importlib.import_module("huggingface_hub.constants")
    # The client reads its environment at import only.
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield folder
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def put_on_hub(hub: Path, content: bytes, name: str = "model.safetensors", tag: str = "lamb_in1k") -> None:
    folder = hub / "timm" / f"mobilenetv3_small_050.{tag}" / "resolve" / "main"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


@pytest.mark.parametrize("weights", ["lamb_in1k", "DEFAULT"])
def test_timms_weights_are_downloaded_and_loaded(
    hub: Path, timms: nn.Module, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put_on_hub(hub, serialise(timms.state_dict()))
    network = fresh(TIMM)
    state = torch.random.get_rng_state()
    initial = load_initial_weights(network, spec=TIMM, weights=weights)
    assert torch.equal(features(network), features(timms))
    assert initial.description == ("timm mobilenetv3_small_050.lamb_in1k (license apache-2.0); fresh head classifier")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert capsys.readouterr().out == ""


def test_timms_weights_for_as_many_classes_keep_their_head(hub: Path, timms: nn.Module) -> None:
    put_on_hub(hub, serialise(timms.state_dict()))
    spec = NetworkSpec(network=TIMM.network, num_classes=1000, image_size=64)
    network = fresh(spec)
    assert "fresh head" not in load_initial_weights(network, spec=spec, weights="lamb_in1k").description
    assert torch.equal(network.classifier.weight, timms.classifier.weight)


@pytest.mark.parametrize("wrap", [saved, pickle.dumps], ids=["zip", "pickle"])
def test_weights_of_timms_that_would_run_code_are_refused(
    hub: Path, tmp_path: Path, wrap: Callable[[object], bytes]
) -> None:
    put_on_hub(hub, wrap({"conv_stem.weight": Malicious(tmp_path / "ran")}), name="pytorch_model.bin")
    with pytest.raises(EdgepruneError, match=r"weights lamb_in1k of timm/mobilenetv3_small_050 could not be loaded"):
        load_initial_weights(fresh(TIMM), spec=TIMM, weights="lamb_in1k")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"<html>login</html>", None], ids=["empty", "page", "absent"])
def test_what_is_no_file_of_weights_is_an_error_with_its_address(hub: Path, content: bytes | None) -> None:
    if content is not None:
        put_on_hub(hub, content)
    network = fresh(TIMM)
    with pytest.raises(
        EdgepruneError, match=r"from huggingface\.co/timm/mobilenetv3_small_050\.lamb_in1k: \S"
    ) as caught:
        load_initial_weights(network, spec=TIMM, weights="lamb_in1k")
    assert "--weights none" in caught.value.remedy
    assert equal_names(network, dict(fresh(TIMM).state_dict())) == set(network.state_dict())


def test_a_file_of_another_network_at_timms_address_is_refused(hub: Path, trained: dict[str, torch.Tensor]) -> None:
    put_on_hub(hub, serialise(trained))
    with pytest.raises(EdgepruneError, match=r"could not be loaded from .*: Error"):
        load_initial_weights(fresh(TIMM), spec=TIMM, weights="lamb_in1k")


@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "in1k"])
def test_an_unknown_tag_lists_timms(weights: str) -> None:
    with pytest.raises(
        InputError, match=f"'{weights}' is not among timm's weights for mobilenetv3_small_050"
    ) as caught:
        load_initial_weights(fresh(TIMM), spec=TIMM, weights=weights)
    assert caught.value.remedy == "one of: lamb_in1k, none; or the path of a .safetensors file"


def test_a_network_that_timm_has_no_weights_for_says_so() -> None:
    spec = NetworkSpec(network="timm/mobilenetv3_small_bogus", num_classes=2, image_size=64)
    with pytest.raises(InputError, match="is not one of timm's"):
        load_initial_weights(nn.Linear(2, 2), spec=spec, weights="DEFAULT")
    spec = NetworkSpec(network="timm/botnet50ts_256", num_classes=2, image_size=64)
    with pytest.raises(InputError, match="'DEFAULT' is not among timm's weights for botnet50ts_256") as caught:
        load_initial_weights(nn.Linear(2, 2), spec=spec, weights="DEFAULT")
    assert caught.value.remedy == "one of: none; or the path of a .safetensors file"
