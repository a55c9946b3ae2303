"""One store, one server."""

import subprocess
from pathlib import Path

from edgehold.attacks.testbed import Federation, eventually


def test_a_second_server_on_the_same_store_is_refused_in_one_line(tmp_path: Path) -> None:
    with Federation(tmp_path / "bed") as bed:
        bed.start_server()
        second = subprocess.run(bed.daemon.command, capture_output=True, text=True, timeout=30, check=False)
        assert second.returncode == 1
        assert second.stdout == ""
        (line,) = second.stderr.splitlines()
        assert "already runs on this store" in line
        assert f"process {bed.daemon.child.pid if bed.daemon.child else ''})" in line
        # The first goes on, still reachable over its socket.
        assert bed.daemon.alive
        assert bed.connected() == 0

        bed.daemon.stop()
        assert bed.daemon.child is not None
        assert bed.daemon.child.returncode == 0
        bed.start_server()
        assert eventually(lambda: bed.connected() == 0)


def test_the_lock_goes_with_its_holder(tmp_path: Path) -> None:
    with Federation(tmp_path / "bed") as bed:
        bed.start_server()
        assert bed.daemon.child is not None
        bed.daemon.child.kill()
        assert bed.daemon.wait() == -9
        bed.start_server()
        assert bed.connected() == 0
