"""Builds the native kernel; everything else about the package is said in pyproject.toml and setup.cfg.

The kernel is optional: without a C++ compiler the package installs, and its layers take an exact, slower path.
"""

import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NATIVE = Path("squeeze/kernels/native")
FLAGS = ["-O3", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden", "-g0", "-Wall", "-Wextra"]
X86 = {"avx512.cpp": ["-mavx512f", "-mfma"], "avx2.cpp": ["-mavx2", "-mfma"]}
"""What a file needs besides on x86-64; elsewhere these files are empty."""


class BuildKernel(build_ext):
    """Compiles each file with the instruction set it is written for."""

    def build_extension(self, ext: Extension) -> None:
        """Compile, then link."""
        extra = X86 if platform.machine() in ("x86_64", "AMD64") else {}
        objects = []
        for source in ext.sources:
            flags = [*FLAGS, *extra.get(Path(source).name, [])]
            objects += self.compiler.compile([source], self.build_temp, extra_postargs=flags, depends=ext.depends)
        to = self.get_ext_fullpath(ext.name)
        Path(to).parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(objects, to, extra_postargs=["-pthread"], target_lang="c++")


setup(
    cmdclass={"build_ext": BuildKernel},
    ext_modules=[
        Extension(
            "squeeze.kernels._clustered",
            [str(NATIVE / f"{name}.cpp") for name in ("api", "gated", "pool", "portable", "python", "avx2", "avx512")],
            depends=[
                str(NATIVE / f"{name}.h")
                for name in (
                    "clustered",
                    "controller",
                    "copies",
                    "filters",
                    "gated",
                    "planes",
                    "pool",
                    "tile",
                    "vectors",
                )
            ],
            language="c++",
            optional=True,
        )
    ],
)
