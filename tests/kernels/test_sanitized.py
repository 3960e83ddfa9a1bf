"""The kernels under the compiler's sanitizers: no read or write out of bounds, no undefined behaviour."""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "squeeze" / "kernels" / "native"
X86 = {"avx512.cpp": ["-mavx512f", "-mfma"], "avx2.cpp": ["-mavx2", "-mfma"]}
# Smaller blocks are the same code, of which the compiler makes a tenth.
FLAGS = ["-std=c++17", "-O1", "-DREGISTERS=12", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

pytestmark = pytest.mark.slow


def compiled(sources: Iterable[Path], folder: Path, *flags: str) -> list[str]:
    """The object files."""
    extra = X86 if platform.machine() == "x86_64" else {}
    objects = []
    for source in sources:
        objects.append(str(folder / f"{source.stem}.o"))
        command = ["c++", *FLAGS, *flags, *extra.get(source.name, []), "-c", str(source), "-o", objects[-1]]
        subprocess.run(command, check=True)
    return objects


def test_random_layers_under_the_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    objects = compiled([*sorted(NATIVE.glob("*.cpp")), Path(__file__).with_name("sanitized.cpp")], tmp_path)
    program = tmp_path / "sanitized"
    subprocess.run(["c++", *FLAGS, "-pthread", *objects, "-o", str(program)], check=True)
    done = subprocess.run([program, "200"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "portable" in done.stdout or "neon" in done.stdout


def test_the_module_of_python_under_the_same_sanitizers(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "squeeze", tmp_path / "squeeze", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    objects = compiled(sorted(NATIVE.glob("*.cpp")), tmp_path, "-fPIC", f"-I{sysconfig.get_path('include')}")
    module = tmp_path / "squeeze" / "kernels" / f"_clustered{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run(["c++", *FLAGS, "-shared", "-pthread", *objects, "-o", str(module)], check=True)
    libraries = [
        subprocess.run(["c++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python leaves much to the end of the process
        "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT))),
    }

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    load = "import sys, pytest; from squeeze.kernels.native import extension as found; "
    wild = load + f"print(found().__file__ == {str(module)!r}, flush=True); found().gated(4001, *[0] * 6)"
    done = run("-c", wild)
    assert done.stdout.strip() == "True"
    assert "gated.cpp" in done.stderr, "the sanitizers do not see a wild address"
    words = ["-q", "-p", "no:cacheprovider", "-m", "not slow", f"--rootdir={ROOT}", str(ROOT / "tests" / "kernels")]
    done = run("-c", load + f"sys.exit(pytest.main({words!r}))")
    assert done.returncode == 0, done.stdout + done.stderr
