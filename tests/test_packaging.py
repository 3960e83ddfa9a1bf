"""What a user gets by installing: the command, the passes, the files in the wheel."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def fresh(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of the files in a wheel built from a copy of the sources."""
    return built(tmp_path_factory.mktemp("source"))


def built(source: Path, **environment: str) -> list[str]:
    for name in ("squeeze", "squeeze_cli"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "setup.cfg", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "from setuptools.build_meta import build_wheel; build_wheel('.')"
    subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, check=True, env=os.environ | environment
    )
    (found,) = source.glob("*.whl")
    return zipfile.ZipFile(found).namelist()


def test_a_wheel_is_built_without_a_compiler_too(wheel: list[str], tmp_path: Path) -> None:
    without = built(tmp_path, CC="false", CXX="false")
    missing = {name for name in wheel if ".dist-info/" not in name} - set(without)
    assert [Path(name).name.split(".")[0] for name in missing] == ["_clustered"]


def test_the_version_has_one_source() -> None:
    assert version("squeeze") == PROJECT["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## (\S+)", changelog, re.MULTILINE).group(1) == PROJECT["version"]


def test_requirements_have_lower_bounds_only() -> None:
    extras = PROJECT["optional-dependencies"]
    for requirement in [*PROJECT["dependencies"], *extras["dev"], *extras["bench"]]:
        assert re.fullmatch(r"[A-Za-z0-9-]+>=[\w.]+", requirement), requirement


def test_every_installed_pass_can_be_imported_under_its_own_name() -> None:
    passes = {entry.name: entry.load() for entry in entry_points(group="squeeze.passes")}
    assert {"gal", "magnitude"} <= set(passes)
    assert {name: found.name for name, found in passes.items()} == {name: name for name in passes}


def test_help_does_not_import_torch() -> None:
    code = """
import sys
from click.testing import CliRunner
from squeeze_cli.main import cli
for arguments in (["--help"], ["prune", "--help"], ["--version"], ["inspect", "--help"]):
    assert CliRunner().invoke(cli, arguments).exit_code == 0
print([name for name in ("torch", "numpy", "onnx", "squeeze", "rich", "scipy") if name in sys.modules])
"""
    assert fresh(code).strip() == "[]"


def test_the_command_is_installed() -> None:
    command = Path(sys.executable).with_name("squeeze")
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert PROJECT["version"] in done.stdout


def test_the_wheel_holds_all_of_squeeze_and_nothing_else(wheel: list[str]) -> None:
    sources = {
        path.relative_to(ROOT).as_posix()
        for name in ("squeeze", "squeeze_cli")
        for path in (ROOT / name).rglob("*")
        if path.is_file() and not {"__pycache__", "native"} & set(path.parts) and path.suffix != ".so"
    }
    built = {name for name in wheel if name.startswith("squeeze/kernels/_clustered.")}
    assert {name for name in wheel if ".dist-info/" not in name} - built == sources
    assert len(built) == 1
    assert "squeeze/py.typed" in wheel
    assert any(name.endswith("LICENSE") for name in wheel)


def test_continuous_integration_calls_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text()


def test_make_demo_installs_trains_and_prunes() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "demo"],
        cwd=ROOT,
        env={
            name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
        },  # the outer make's
        capture_output=True,
        text=True,
        check=True,
    )
    commands = [line for line in done.stdout.splitlines() if line.strip()]
    assert re.search(r"-m venv .venv$", commands[0])
    assert "pip install" in commands[1]
    assert [re.search(r"squeeze (\w+)", line).group(1) for line in commands[-2:]] == ["demo", "prune"]
    assert "--method gal model.pt" in commands[-1]
