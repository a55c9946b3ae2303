"""The tutorial is run as it stands, in an empty folder, against real processes; what it shows is what comes out."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgehold.attacks.testbed import free_ports

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorials" / "iot_anomaly_detection.md"
PORT = "--port 8470"
GROWING = """\
head -n 1 live.csv > growing.csv
{command}
for line in 2 1000; do
  sed -n "${{line}}p" live.csv >> growing.csv
  for i in $(seq 200); do [[ $(wc -l < growing.jsonl) -ge $((line == 2 ? 1 : 2)) ]] && break; sleep 0.05; done
done
"""
"""Around the command that follows a growing file: somebody must write it, line by line, and see it answered at once."""


def files(text: str) -> dict[str, str]:
    """Blocks that begin with the name of a file."""
    found = re.findall(r"^```(?:python|toml)\n# ([\w.]+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return dict(found)


def steps(text: str) -> list[tuple[str, list[str]]]:
    """Commands of all console blocks with the lines that the page shows after them."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            elif line == ">" or line.startswith("> "):
                found[-1] = (found[-1][0] + "\n" + line[2:], found[-1][1])
            else:
                found[-1][1].append(line)
    return found


def without_numbers(line: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\b[0-9a-f]{12}\b|\d[\d.:e-]*Z?(?!\w)", "#", line)).strip()


@pytest.mark.slow
def test_the_tutorial_runs_and_says_what_it_shows(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert PORT in text
    text = text.replace(PORT, f"--port {free_ports(4)[0]}")
    for name, content in files(text).items():
        (tmp_path / name).write_text(content)
    tools = tmp_path / "bin"
    tools.mkdir()
    commands = {"fl-server": "-m edgehold.server", "fl-client": "-m edgehold.client", "python": ""}
    for name, module in commands.items():
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        (tools / name).chmod(0o755)
    told = steps(text)
    script = ["set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT"]
    for number, (command, _) in enumerate(told):
        script.append(f"echo '== {number}'")
        script.append(GROWING.format(command=command) if "--follow" in command else command)
    child = subprocess.Popen(
        ["bash", "-c", "\n".join(script)], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}, start_new_session=True,
    )  # fmt: skip
    try:
        out, _ = child.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        raise
    assert child.returncode == 0, out
    parts = dict(re.findall(r"^== (\d+)\n(.*?)(?=^== \d+\n|\Z)", out, re.DOTALL | re.MULTILINE))
    for number, (command, shown) in enumerate(told):
        said = {without_numbers(line) for line in parts[str(number)].splitlines()}
        for line in shown:
            assert without_numbers(line) in said, (command, line, parts[str(number)])

    # What it is about: attacks raise alarms, normal records hardly do; a second threshold is stricter.
    alarms = [json.loads(line)["record"] for line in (tmp_path / "alarms.jsonl").read_text().splitlines()]
    assert len([one for one in alarms if one > 970]) >= 27
    assert len([one for one in alarms if one <= 970]) <= 40
    growing = [json.loads(line) for line in (tmp_path / "growing.jsonl").read_text().splitlines()]
    assert [(one["record"], one["alarm"]) for one in growing] == [(1, False), (2, True)]
    assert "2 records; 1 alarms" in (tmp_path / "growing.log").read_text()
    facts = dict(line.split() for line in out.splitlines() if re.fullmatch(r"[a-z_0-9]+ [\d.]+", line))
    assert float(facts["auc"]) > 0.95
    assert float(facts["f1"]) > float(facts["all_alarm_f1"]) + 0.3
