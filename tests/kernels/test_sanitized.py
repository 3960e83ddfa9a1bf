"""The kernels under the compiler's sanitizers: no read or write out of bounds, no undefined behaviour."""

import platform
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "squeeze" / "kernels" / "native"
X86 = {"avx512.cpp": ["-mavx512f", "-mfma"], "avx2.cpp": ["-mavx2", "-mfma"]}


@pytest.mark.slow
def test_random_layers_under_the_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    extra = X86 if platform.machine() == "x86_64" else {}
    # Smaller blocks are the same code, of which the compiler makes a tenth.
    flags = ["-std=c++17", "-O1", "-DREGISTERS=12", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    objects = []
    for source in [*sorted(NATIVE.glob("*.cpp")), Path(__file__).with_name("sanitized.cpp")]:
        objects.append(tmp_path / f"{source.stem}.o")
        subprocess.run(
            ["c++", *flags, *extra.get(source.name, []), "-c", str(source), "-o", str(objects[-1])], check=True
        )
    program = tmp_path / "sanitized"
    subprocess.run(["c++", *flags, "-pthread", *map(str, objects), "-o", str(program)], check=True)
    done = subprocess.run([program, "200"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "portable" in done.stdout or "neon" in done.stdout
