"""Compiles the kernels of `edgehold.core.kernels` when the package is built or installed, where there is a C compiler.

One library per instruction set; which one runs is decided when it is loaded. Without a compiler the package is complete all
the same: the kernels have slower NumPy code beside them.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("core/edgehold/core/kernels")
SOURCES = {
    "columns.c": ["-ffp-contract=off"],  # bit for bit what NumPy gives
    "gauss.c": ["-ffp-contract=off"],
    "products.c": ["-ffp-contract=fast"],
    "widest.c": [],
}


class KernelHook(BuildHookInterface):
    """Runs for wheels and for editable installs."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile into the source folder, and put what was compiled into the wheel."""
        if self.target_name != "wheel":
            return
        folder = Path(self.root) / FOLDER
        for old in folder.glob("kernels-*.so"):
            old.unlink()
        variants = {"plain": []}
        if platform.machine().lower() in ("x86_64", "amd64"):
            variants |= {name: [f"-march={name}"] for name in ("x86-64-v3", "x86-64-v4")}
        compiler = os.environ.get("CC") or next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), "")
        if not sys.platform.startswith("linux") or not compiler:
            self.app.display_warning("edgehold: no C compiler found; the kernels are left out and NumPy does their work")
            return
        for name, flags in variants.items():  # "plain" first: without it none is ever loaded
            try:
                compile_into(folder / f"kernels-{name}.so", compiler, flags, folder)
            except (OSError, subprocess.CalledProcessError) as error:
                said = (getattr(error, "stderr", "") or str(error)).strip()[-500:]
                instead = "NumPy does their work" if name == "plain" else "those for narrower vectors do their work"
                self.app.display_warning(f"edgehold: the kernels for {name} do not compile, {instead}: {said}")
                if name == "plain":
                    return
        made = sorted(path.relative_to(self.root).as_posix() for path in folder.glob("kernels-*.so"))
        build_data["artifacts"] += [f"/{path}" for path in made]
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def compile_into(library: Path, compiler: str, flags: list[str], folder: Path) -> None:
    """One shared library from all sources; it appears whole or not at all."""
    common = [*compiler.split(), "-std=gnu11", "-O3", "-fPIC", "-Wall", "-Wno-psabi", *flags]
    with tempfile.TemporaryDirectory() as work:
        objects = []
        for source, own in SOURCES.items():
            objects.append(str(Path(work) / f"{source}.o"))
            run([*common, *own, "-c", str(folder / source), "-o", objects[-1]])
        made = Path(work) / library.name
        run([*compiler.split(), "-shared", *objects, "-o", str(made), "-lm"])
        staged = library.with_suffix(".new")
        shutil.copyfile(made, staged)
        staged.replace(library)


def run(command: list[str]) -> None:
    """`CalledProcessError` with what the compiler said."""
    subprocess.run(command, check=True, capture_output=True, text=True)
