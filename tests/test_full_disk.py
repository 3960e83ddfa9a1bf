"""Whenever the disk fills up: one clear line, every file that was there is whole, and with room again a run goes on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from squeeze import artifact, checkpoint
from squeeze.errors import InputError
from squeeze.finetune import FineTune, finetune
from squeeze.folders import NEXT
from squeeze.plan import Plan
from squeeze.training import Run
from squeeze_cli.main import cli
from tests.cli import networks
from tests.full_disk import full_after
from tests.tasks import noise_task, tiny_net


def tuned(run: Run) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    net = tiny_net(4)
    settings = FineTune(epochs=3, lr=0.05, warmup=1, distill=0, name="x")
    return finetune(net, None, noise_task(80), settings, (), run)[0].state_dict()


def check_one_line(message: str) -> None:
    assert message.isprintable() and "must have room on its disk, got a full disk" in message, message


def test_training_at_every_write(tmp_path: Path) -> None:
    expected, failed = tuned(Run()), 0
    while True:
        folder = tmp_path / str(failed)
        with full_after(failed) as disk:
            try:
                tuned(Run(folder, checkpoint_seconds=0))
                break
            except InputError as error:
                check_one_line(str(error))
        written = list(folder.glob("checkpoints/*"))
        assert [path.name for path in written] in ([], ["x.safetensors"])
        assert all(isinstance(checkpoint.load(path), dict) for path in written)
        resumed = tuned(Run(folder, resume=True))
        assert all(torch.equal(resumed[name], tensor) for name, tensor in expected.items())
        failed += 1
    assert failed == disk.writes >= 10


def prune(*more: str) -> Result:
    given = ("prune", "small.pt", "--arch", "networks.py:small", "--input-shape", "1,8,8", "--method", "magnitude")
    return CliRunner().invoke(cli, [*given, "--quiet", "--out", "run", *more])


def check_whole(folder: Path) -> None:
    """Every file with a name of its own can be read to its end."""
    if (folder / "model.safetensors").exists():
        assert artifact.read(folder / "model.safetensors").weights
    if (folder / "model.pt2").exists():
        assert isinstance(torch.export.load(folder / "model.pt2").module(), nn.Module)
    if (folder / "plan.json").exists():
        assert Plan.from_json((folder / "plan.json").read_text()).steps
    if (folder / "report.json").exists():
        assert json.loads((folder / "report.json").read_text())["schema"]
    if (folder / "report.html").exists():
        assert (folder / "report.html").read_text().rstrip().endswith("</html>")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("again", "how"), [(True, "--force"), (True, "--resume"), (False, "--resume")], ids=["replaced", "resumed", "new"]
)
def test_a_whole_run_at_every_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool, how: str) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(networks.__file__, tmp_path / "networks.py")
    torch.save(networks.small().state_dict(), "small.pt")
    if again:
        assert prune().exit_code == 0
    failed, earlier = 0, contents(Path("run"))
    while True:
        with full_after(failed) as disk:
            result = prune(how)
        if result.exit_code == 0:
            break
        assert isinstance(result.exception, SystemExit), result.exception
        lines = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
        assert result.exit_code == 2 and len(lines) == 1
        check_one_line(lines[0])
        check_whole(Path("run"))
        now = contents(Path("run"))
        assert earlier.keys() <= now.keys() if how == "--resume" else earlier == now
        assert {path.name for path in Path("run").glob(".*")} <= ({NEXT} if how == "--force" else set())
        failed += 1
    assert failed == disk.writes > 8
    assert not list(Path("run").glob(".*"))
    check_whole(Path("run"))
