"""The images' recipe: pinned, from a base that the builder chooses, no network in the build, nobody is root when it runs."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "deploy" / "images"
SCRIPTS = ("assemble", "build", "edgehold-entry", "edgehold-health")
FINAL = {"server", "device", "train"}


def stages() -> dict[str, list[tuple[str, str]]]:
    """Stage -> its instructions, (word, rest), those of the stages it is made from included."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", (IMAGES / "Dockerfile").read_text(), flags=re.MULTILINE))
    found: dict[str, list[tuple[str, str]]] = {}
    current = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, current = rest.partition(" AS ")
            found[current] = [*found.get(base, [("FROM", base)])]
        elif current:
            found[current].append((word, rest.strip()))
        else:
            assert word == "ARG", line
            found[""] = [(word, rest)]
    return found


def last(instructions: list[tuple[str, str]], word: str) -> str:
    return [rest for one, rest in instructions if one == word][-1]


def test_the_base_is_the_builders_choice_and_the_default_is_a_version() -> None:
    ((_, default),) = stages()[""]
    assert re.fullmatch(r"BASE_IMAGE=python:3\.\d+\.\d+-slim-\w+", default)
    assert {last(one, "FROM") for name, one in stages().items() if name} == {"${BASE_IMAGE}"}


@pytest.mark.parametrize("image", sorted(FINAL))
def test_an_image_is_one_layer_of_ours_and_runs_as_nobody_special(image: str) -> None:
    instructions = stages()[image]
    assert last(instructions, "USER") == "10001:10001"
    assert last(instructions, "COPY") == "--from=tree /tree/ /"
    assert [word for word, _ in instructions].count("COPY") == 1
    # Whatever RUN did would be another layer, with the clock's times in it.
    assert not {"RUN", "ADD"} & {word for word, _ in instructions}
    assert "edgehold-health" in last(instructions, "HEALTHCHECK")
    assert last(instructions, "ENTRYPOINT").startswith('["edgehold-entry"')
    assert last(instructions, "STOPSIGNAL") == "SIGTERM"
    # train serves either side, and the volume is where both live.
    (volume,) = json.loads(last(instructions, "VOLUME"))
    for side in ("SERVER", "CLIENT"):
        assert f"EDGEHOLD_{side}_HOME={volume}/home" in last(instructions, "ENV")


def test_nothing_is_fetched_while_an_image_is_built() -> None:
    assemble = (IMAGES / "assemble").read_text()
    assert "--no-index" in assemble
    assert "--network none" in (IMAGES / "build").read_text()
    for script in (assemble, (IMAGES / "Dockerfile").read_text()):
        assert not re.search(r"apt-get|curl|wget|https?://", script)


def test_every_distribution_is_pinned() -> None:
    lines = [line for line in (IMAGES / "versions.txt").read_text().splitlines() if not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert all(re.fullmatch(r"[0-9][0-9A-Za-z.]*", version) for version in pins.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["server"], *extras["device"], *extras["train"]]
    assert {re.split(r"[<>=\[]", one)[0] for one in asked} <= set(pins)
    constraints = (ROOT / "constraints.txt").read_text()
    assert f"torch=={pins['torch']}" in constraints


def test_the_names_of_the_builders_index_stay_out() -> None:
    for path in (*IMAGES.iterdir(), *(ROOT / "deploy").glob("*")):
        if path.is_file():
            assert not re.search(r"--index-url|--extra-index|find-links[= ]https?", path.read_text()), path


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_parse(script: str) -> None:
    path = IMAGES / script
    shell = "bash" if "bash" in path.read_text().splitlines()[0] else "sh"
    done = subprocess.run([shell, "-n", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(["hadolint", str(IMAGES / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# ---- what is inside


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom", IMAGES / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_bill_lists_what_is_installed_the_same_each_time() -> None:
    command = [sys.executable, str(IMAGES / "sbom.py")]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True, env={"SOURCE_DATE_EPOCH": "86400"}).stdout
        for _ in range(2)
    )
    assert first == second
    bill = json.loads(first)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert bill["metadata"]["timestamp"] == "1970-01-02T00:00:00Z"
    import numpy

    assert f"pkg:pypi/numpy@{numpy.__version__}" in {one["purl"] for one in bill["components"]}


def test_debians_packages_are_those_that_are_installed() -> None:
    status = (
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9+deb12u14\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1:1.0\n"
    )
    (found,) = script().debian(status)
    assert found["purl"] == "pkg:deb/debian/libc6@2.36-9%2Bdeb12u14?arch=amd64"


# ---- the entry script, with commands that only say how they were called


def entry(folder: Path, side: str, *words: str) -> list[str]:
    """What would have been run, in order."""
    said = folder / "said"
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    for name in ("fl-server", "fl-client"):
        (tools / name).write_text(
            f'#!/bin/sh\necho {name} "$@" >>{said}\n[ "$1" = init ] && mkdir -p "$3" && touch "$3/server.toml"\n:\n'
        )
        (tools / name).chmod(0o755)
    said.write_text("")
    home = folder / "home"
    environment = {
        "PATH": f"{tools}:/usr/bin:/bin", "EDGEHOLD_CONFIG": str(folder / "config"), "EDGEHOLD_FEDERATION": "clinics",
        "EDGEHOLD_SERVER_HOME": str(home), "EDGEHOLD_CLIENT_HOME": str(home), "EDGEHOLD_BUNDLE": "/run/secrets/b",
    }  # fmt: skip
    done = subprocess.run(["sh", str(IMAGES / "edgehold-entry"), side, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return said.read_text().splitlines()


def test_a_server_makes_its_home_once_and_the_operators_file_rules(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "server.toml").write_text("# of the operator\n")
    first, second = entry(tmp_path, "server"), entry(tmp_path, "server")
    home = tmp_path / "home"
    assert first == [
        f"fl-server init --home {home} --federation clinics --host server",
        f"fl-server serve --home {home} --log-format json",
    ]
    assert second == first[1:]
    assert (home / "server.toml").read_text() == "# of the operator\n"


def test_a_client_enrols_once(tmp_path: Path) -> None:
    home = tmp_path / "home"
    first = entry(tmp_path, "client")
    (home / "identity").mkdir(parents=True)
    second = entry(tmp_path, "client")
    assert first == [
        f"fl-client enroll --home {home} --bundle @/run/secrets/b",
        f"fl-client run --home {home} --log-format json",
    ]
    assert second == first[1:]
    assert entry(tmp_path, "client", "status", "--json") == ["fl-client status --json"]
