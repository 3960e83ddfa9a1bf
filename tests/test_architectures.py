"""Every spelling of --arch builds what it says, and whatever cannot be built is told in one line."""

import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from squeeze.architectures import builder, import_object, load_callable, runs_code
from squeeze.errors import InputError
from tests.memory import status

NETWORKS = """
from torch import nn


def net(width=4, bias=True, scale=1.0, name="a"):
    model = nn.Linear(width, 2, bias=bias)
    model.given = (width, bias, scale, name)
    return model


ready = nn.Linear(3, 2)
number = 7


def text():
    return "no module"


def broken():
    return 1 / 0


def leaves():
    raise SystemExit(3)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "networks.py"
    path.write_text(NETWORKS)
    return path


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def check_refused(spec: str, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        builder(spec)()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_torchvision_by_name_with_options() -> None:
    model = builder("torchvision:resnet18?num_classes=7")()
    assert shapes(model) == shapes(models.resnet18(num_classes=7))


def test_timm_by_name() -> None:
    model = builder("timm:vit_tiny_patch16_224?num_classes=5&depth=2")()
    assert shapes(model) == shapes(timm.create_model("vit_tiny_patch16_224", num_classes=5, depth=2))


def test_a_package_and_a_class_in_a_module() -> None:
    assert isinstance(builder("torch.nn:Linear?in_features=3&out_features=2")(), nn.Linear)
    assert isinstance(builder("torch:nn.ReLU")(), nn.ReLU)


def test_a_file_of_the_user(file: Path) -> None:
    model = builder(f"{file}:net?width=8&bias=false&scale=1e-3&name=b")()
    assert model.given == (8, False, 1e-3, "b")
    assert model.bias is None


def test_each_build_is_fresh(file: Path) -> None:
    for name in ("net", "ready"):
        build = builder(f"{file}:{name}")
        first, second = build(), build()
        assert first is not second
        assert first.weight.data_ptr() != second.weight.data_ptr()


def test_files_of_one_name_do_not_meet(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "networks.py").write_text(
            f"from torch import nn\ndef net(): return nn.Linear({number}, 1)"
        )
    widths = [builder(f"{tmp_path / str(n) / 'networks.py'}:net")().in_features for n in (1, 2, 1)]
    assert widths == [1, 2, 1]


def test_a_file_finds_its_neighbours_even_late(tmp_path: Path) -> None:
    (tmp_path / "neighbour_early.py").write_text("WIDTH = 3")
    (tmp_path / "neighbour_late.py").write_text("HEIGHT = 5")
    (tmp_path / "alone.py").write_text(
        "from torch import nn\nfrom neighbour_early import WIDTH\n"
        "def net():\n    from neighbour_late import HEIGHT\n    return nn.Linear(WIDTH, HEIGHT)"
    )
    assert builder(f"{tmp_path / 'alone.py'}:net")().weight.shape == (5, 3)


def test_a_file_in_a_package_imports_relatively(tmp_path: Path) -> None:
    package = tmp_path / "package_of_architectures"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "sizes.py").write_text("WIDTH = 6")
    (package / "model.py").write_text(
        "from torch import nn\nfrom .sizes import WIDTH\ndef net(): return nn.Linear(WIDTH, 1)"
    )
    assert builder(f"{package / 'model.py'}:net")().in_features == 6


def test_a_package_may_lie_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_lying_here.py").write_text("from torch import nn\ndef net(): return nn.Linear(2, 1)")
    monkeypatch.chdir(tmp_path)
    assert builder("module_lying_here:net")().in_features == 2


def test_the_import_machinery_is_left_as_it_was(file: Path) -> None:
    before = list(sys.meta_path), list(vars(sys)["path"])
    builder(f"{file}:net")()
    with pytest.raises(InputError):
        builder(f"{file}:broken")()
    assert (list(sys.meta_path), list(vars(sys)["path"])) == before


def test_detectors_and_segmenters_fetch_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(*_: object, **__: object) -> None:
        raise AssertionError("must not be called")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fetched)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetched)
    assert isinstance(builder("torchvision:fasterrcnn_mobilenet_v3_large_fpn")(), nn.Module)
    assert isinstance(builder("torchvision:lraspp_mobilenet_v3_large")(), nn.Module)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("torchvision:resnet19", ("'resnet19'", "did you mean", "resnet18")),
        ("torchvision:qqqqqq", ("'qqqqqq'", "spelling")),
        ("timm:resnet19", ("'resnet19'", "did you mean", "resnet18")),
        ("timm:hf-hub:someone/something", ("no such model",)),
        ("resnet18", ("'resnet18'", "did you mean torchvision:resnet18?")),
        ("something", ("'something'", "torchvision:NAME")),
        (":net", ("':net'",)),
        ("nowhere.at.all:net", ("nowhere", "ModuleNotFoundError")),
        ("torch.nn:Linea", ("'Linea'", "did you mean Linear")),
        ("torchvision:resnet18?num_classes", ("'num_classes'", "name=value")),
        ("torchvision:resnet18?widt=3", ("resnet18", "widt")),
        ("torchvision:resnet18?weights=DEFAULT", ("weights", "MODEL")),
        ("timm:resnet18?pretrained=true", ("pretrained", "MODEL")),
        ("timm:resnet18?checkpoint_path=x.pth", ("checkpoint_path", "MODEL")),
        ("os:getcwd", ("os:getcwd", "nn.Module", "str")),
        ("missing.py:net", ("missing.py", "none")),
    ],
)
def test_what_cannot_be_is_told(spec: str, words: tuple[str, ...]) -> None:
    check_refused(spec, *words)


def test_mistakes_in_a_file_are_told_with_their_line(file: Path) -> None:
    line = NETWORKS.splitlines().index("    return 1 / 0") + 1
    check_refused(f"{file}:broken", "ZeroDivisionError", f"networks.py:{line}")
    check_refused(f"{file}:leaves", "SystemExit", "networks.py")
    check_refused(f"{file}:ne", "'ne'", "did you mean net")
    check_refused(f"{file}:number", "7", "function or a class")
    check_refused(f"{file}:text", "nn.Module", "str")
    check_refused(f"{file}:net?high=3", "high")


def test_a_file_that_cannot_be_imported_is_told_with_its_line(file: Path) -> None:
    file.write_text("import nothing_of_this_name\n")
    check_refused(f"{file}:net", "nothing_of_this_name", "networks.py:1")
    file.write_text("x = 1\ndef net(:\n")
    check_refused(f"{file}:net", "SyntaxError", "networks.py:2")
    check_refused(f"{file.parent}.py:net", "none")


def test_a_changed_file_is_read_again(file: Path) -> None:
    assert builder(f"{file}:net")().in_features == 4
    file.write_text("from torch import nn\n\n\ndef net():\n    return nn.Linear(11, 1)\n")
    assert builder(f"{file}:net")().in_features == 11


def test_timm_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    check_refused("timm:resnet18", "pip install timm")


@pytest.mark.parametrize(
    "spec",
    [
        "torchvision:resnet18?num_classes=100000000",
        "torchvision:vit_b_16?image_size=1000000",
        "timm:vit_tiny_patch16_224?embed_dim=999936",
    ],
)
def test_a_bounded_build_stops_before_it_takes_the_memory(spec: str) -> None:
    with pytest.raises(InputError, match="must fit its file"):
        builder(spec, limit=2**28)()


def test_a_bound_does_not_change_what_is_built() -> None:
    built = []
    for limit in (None, 2**26):
        torch.manual_seed(0)
        built.append(builder("torchvision:resnet18?num_classes=3", limit)().state_dict())
    assert all(torch.equal(built[0][name], built[1][name]) for name in built[0])


def test_what_a_file_may_name_unasked() -> None:
    assert [runs_code(spec) for spec in ("torchvision:resnet18", "timm:x", "squeeze.demo:digits_resnet")] == [False] * 3
    code = ("model.py:net", "os:getcwd", "squeeze.demo:train_demo", "squeeze.demo:digits_resnet?x=1", "torchvision")
    assert [runs_code(spec) for spec in code] == [True] * len(code)


def test_objects_and_callables_by_name(file: Path) -> None:
    assert import_object(f"{file}:number", "data") == 7
    assert load_callable("torch.nn:Linear") is nn.Linear
    with pytest.raises(InputError, match="^data: .* 7"):
        load_callable(f"{file}:number")
    with pytest.raises(InputError, match="--method: must be file.py:name"):
        import_object("nothing", "--method")


@pytest.mark.parametrize("settings", ["depth=500000&embed_dim=12&num_heads=1", "depth=1000000000&drop_path_rate=0.1"])
def test_a_model_from_a_file_takes_no_more_than_its_limit_in_all(settings: str) -> None:
    """Layers without number, each of them small; and one tensor that is made besides."""
    before = status("VmPeak")
    with pytest.raises(InputError, match="timm"):
        builder(f"timm:vit_tiny_patch16_224?{settings}", limit=2**24)()
    assert status("VmPeak") - before < 2**29
