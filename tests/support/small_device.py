"""A virtual environment that holds what `edgehold[device]` requires and nothing else: no PyTorch, no server, no evaluation.

Its packages are links to those of this environment, so that it takes a second and no network. `./scripts/bench edge` installs
the same with pip.
"""

import re
import subprocess
import sys
import venv
from collections import deque
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("core", "proto", "defenses", "server", "client", "attacks")


def closure(package: str, extra: str) -> dict[str, Distribution]:
    """Distributions that `package[extra]` requires, by normalised name, without the package itself."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = deque([(package, extra), (package, "")])
    while waiting:
        name, asked = waiting.popleft()
        if (name, asked) in seen:
            continue
        seen.add((name, asked))
        one = distribution(name)
        if name != package:
            found[name] = one
        for text in one.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": asked}):
                other = re.sub(r"[-_.]+", "-", requirement.name).lower()
                waiting.extend((other, more) for more in ("", *requirement.extras))
    return found


def make(folder: Path) -> Path:
    """The environment's interpreter. folder: where it is made."""
    venv.create(folder, symlinks=True, with_pip=False)
    places = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for one in closure("edgehold", "device").values():
        for file in one.files or ():
            # What a package puts beside site-packages (commands, manual pages) is not imported.
            if (top := file.parts[0]) in ("..", "__pycache__") or (places / top).exists():
                continue
            source = Path(str(one.locate_file(top)))
            if source.name == "google":  # a namespace that several packages share
                (places / top).mkdir()
                for part in source.iterdir():
                    (places / top / part.name).symlink_to(part)
            else:
                (places / top).symlink_to(source)
    (places / "edgehold.pth").write_text("".join(f"{ROOT / room}\n" for room in ROOMS), encoding="utf-8")
    return folder / "bin" / "python"


def said(python: Path, code: str) -> str:
    """What a line of Python prints there."""
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
