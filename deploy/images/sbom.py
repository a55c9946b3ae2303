"""What is in an image, as CycloneDX 1.5 JSON on standard output: distributions of this Python, and Debian's packages below it.

Run by the environment's own Python in the build. Read from what is installed, not from what was asked for.
"""

import json
import os
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path

DPKG = Path("/var/lib/dpkg/status")


def python() -> Iterator[dict[str, str]]:
    """Installed distributions."""
    for one in distributions():
        name, version = one.metadata["Name"], one.version
        normal = name.lower().replace("_", "-")
        yield {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{normal}@{version.replace('+', '%2B')}"}


def debian(status: str) -> Iterator[dict[str, str]]:
    """Packages that dpkg's status file says are installed."""
    for stanza in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and not line.startswith(" "))
        if fields.get("Status", "").endswith(" installed"):
            name, version, kind = fields["Package"], fields["Version"], fields["Architecture"]
            purl = f"pkg:deb/debian/{name}@{version.replace('+', '%2B').replace(':', '%3A')}?arch={kind}"
            yield {"type": "library", "name": name, "version": version, "purl": purl}


def bill(when: float) -> dict[str, object]:
    """The whole document. when: seconds since 1970, of the build; its serial number follows from the contents."""
    parts = sorted([*python(), *(debian(DPKG.read_text(encoding="utf-8")) if DPKG.exists() else [])], key=lambda p: p["purl"])
    name = json.dumps(parts, sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, name)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {"type": "application", "name": "edgehold"},
        },
        "components": parts,
    }


if __name__ == "__main__":
    json.dump(bill(float(os.environ.get("SOURCE_DATE_EPOCH", "0"))), sys.stdout, indent=1, sort_keys=True)
    print()
