"""Who may use whom, what may not be used at all, and what stays unloaded until it is needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
ROOMS = ("core", "proto", "defenses", "server", "client", "attacks")
MAY_USE = {
    "core": set[str](),
    "proto": {"core"},
    "defenses": {"core", "proto"},
    "server": {"core", "proto", "defenses"},
    "client": {"core", "proto", "defenses"},
    "attacks": set(ROOMS),
}
# Inside the server, from the ground up: a part uses only parts before it. What stands outside them (configuration, metrics) is
# used by all; the daemon and the commands use everything.
SERVER_PARTS = ("store", "identity", "rounds", "wire", "desk")
# Keys, tokens, identities, seals and signatures: randomness here comes from the operating system, or it is a hole.
NO_ORDINARY_RANDOMNESS = {"identity", "keys", "ca", "tokens", "enrolment", "spool", "manifest"}
ORDINARY = ("random", "numpy.random")
TORCH_AT_ONCE = ("core/edgehold/core/torch_", "client/edgehold/client/data/", "client/edgehold/client/models/")
"""Loaded by name when a device or an evaluator makes such a task; nothing else imports them at once."""


def modules(room: str) -> list[Path]:
    return sorted(path for path in (REPOSITORY / room / "edgehold").rglob("*.py") if not path.name.endswith("_pb2.py"))


def imported(node: ast.AST) -> Iterator[str]:
    """Dotted names an import statement asks for; `from a import b` asks for a and a.b."""
    if isinstance(node, ast.Import):
        for name in node.names:
            yield name.name
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "relative imports hide what they mean"
        yield node.module or ""
        for name in node.names:
            yield f"{node.module}.{name.name}"


def everywhere(tree: ast.AST) -> set[str]:
    """Imports of a module, also those inside functions."""
    return {name for node in ast.walk(tree) for name in imported(node)}


def at_once(tree: ast.AST) -> set[str]:
    """Imports that run when the module is imported: not those inside functions."""
    found: set[str] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found.update(imported(node))
            waiting.extend(ast.iter_child_nodes(node))
    return found


def uses(names: set[str], module: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for name in names)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_the_rules_see_what_they_forbid() -> None:
    tree = ast.parse(
        "import torch.nn\nfrom edgehold import server\n"
        "def f():\n    import random\n    from numpy import random as r\n"
        "class C:\n    import sklearn\n"
    )
    assert uses(everywhere(tree), "edgehold.server")
    assert uses(everywhere(tree), "random")
    assert uses(everywhere(tree), "numpy.random")
    assert uses(at_once(tree), "torch")
    assert uses(at_once(tree), "sklearn")
    assert not uses(at_once(tree), "random")
    assert not uses({"randomness", "edgehold.server_side"}, "random")
    assert not uses({"edgehold.server_side"}, "edgehold.server")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_uses_only_what_it_may(room: str) -> None:
    assert modules(room)
    forbidden = set(ROOMS) - MAY_USE[room] - {room}
    wrong = [
        f"{path.relative_to(REPOSITORY)} uses edgehold.{other}"
        for path in modules(room)
        for other in forbidden
        if uses(everywhere(parsed(path)), f"edgehold.{other}")
    ]
    assert not wrong


@pytest.mark.parametrize("part", SERVER_PARTS)
def test_a_part_of_the_server_uses_only_those_below_it(part: str) -> None:
    above = SERVER_PARTS[SERVER_PARTS.index(part) + 1 :]
    modules_here = sorted((REPOSITORY / "server" / "edgehold" / "server" / part).glob("*.py"))
    assert len(modules_here) > 1
    for path in modules_here:
        names = everywhere(parsed(path))
        assert not [one for one in (*above, "daemon", "app") if uses(names, f"edgehold.server.{one}")], path


def test_no_ordinary_randomness_where_secrets_are_made() -> None:
    watched = [path for room in ROOMS for path in modules(room) if path.stem in NO_ORDINARY_RANDOMNESS]
    assert {path.stem for path in watched} == NO_ORDINARY_RANDOMNESS
    wrong = []
    for path in watched:
        tree = parsed(path)
        wrong += [f"{path}: {source}" for source in ORDINARY if uses(everywhere(tree), source)]
        # `import numpy as np; np.random...` imports nothing forbidden and is forbidden all the same.
        wrong += [
            f"{path}: numpy.random"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and node.attr == "random" and isinstance(node.value, ast.Name)
            and node.value.id in ("np", "numpy")
        ]  # fmt: skip
        wrong += [f"{path}: edgehold.core.rng" for source in ("edgehold.core.rng",) if uses(everywhere(tree), source)]
    assert not wrong


def test_nothing_imports_torch_before_it_is_needed() -> None:
    names = {str(path.relative_to(REPOSITORY)): path for room in ROOMS for path in modules(room)}
    loaders = {name for name, path in names.items() if uses(at_once(parsed(path)), "torch")}
    assert not [name for name in loaders if not name.startswith(TORCH_AT_ONCE)]
    assert "core/edgehold/core/torch_task.py" in loaders


def loaded_by(code: str) -> set[str]:
    """Modules that are loaded in a fresh process once it has run the code."""
    report = f"{code}\nimport sys\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


HEAVY = ("torch", "sklearn", "scipy", "rich", "pandas", "matplotlib")


@pytest.mark.parametrize("module", ["edgehold.client.daemon", "edgehold.client.app", "edgehold.server.daemon"])
def test_a_daemon_starts_light(module: str) -> None:
    found = loaded_by(f"import {module}")
    assert module in found
    assert not [heavy for heavy in HEAVY if heavy in found]
    other = "server" if module.startswith("edgehold.client") else "client"
    assert not [name for name in found if name.startswith((f"edgehold.{other}", "edgehold.attacks"))]


def halves(found: set[str], half: str) -> list[str]:
    return [name for name in found if name.startswith("edgehold.defenses.") and name.endswith(f".{half}")]


def test_a_device_never_loads_a_server_half() -> None:
    code = """
from edgehold.client import daemon, worker
from edgehold.defenses import registry
for name in registry.names():
    registry.client_side(name), registry.codec(name, None)
"""
    found = loaded_by(code)
    assert halves(found, "client")
    assert not halves(found, "server")
    assert not [name for name in found if name.startswith(("edgehold.server", "edgehold.attacks"))]


def test_a_server_never_loads_a_client_half() -> None:
    code = """
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Schema, Tensor
from edgehold.defenses import registry
from edgehold.server import daemon
from edgehold.server.rounds import driver
for name in registry.names():
    settings = registry.method(name).settings
    try:
        registry.server_side(name, settings(), Schema((Tensor("w", (4,)),)), 0)
        registry.codec(name, settings())
    except (ConfigError, TypeError):
        __import__(registry.METHODS[name] + ".server"), __import__(registry.METHODS[name] + ".codec")
"""
    found = loaded_by(code)
    assert halves(found, "server")
    assert not halves(found, "client")
    assert not [name for name in found if name.startswith(("edgehold.client", "edgehold.attacks"))]
