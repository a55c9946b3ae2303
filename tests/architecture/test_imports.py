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
ORDINARY = ("random", "numpy.random", "torch.random", "edgehold.core.rng", "edgehold.core.streams")
# Where noise is drawn, also by what is called: tensors and generators have methods that draw.
DRAWING = {
    "Generator", "RandomState", "default_rng", "manual_seed", "seed", "set_rng_state", "fork_rng",
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "multinomial", "bernoulli",
    "normal", "standard_normal", "normal_", "uniform_", "random_", "bernoulli_", "exponential_", "cauchy_", "log_normal_",
    "trunc_normal_", "geometric_", "poisson", "samples", "rvs",
}  # fmt: skip
TORCH_AT_ONCE = (
    "core/edgehold/core/torch_", "attacks/edgehold/attacks/inversion/torch_",
    "client/edgehold/client/data/", "client/edgehold/client/models/",
)  # fmt: skip
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


def ordinary_sources(tree: ast.AST) -> list[str]:
    """Sources of numbers that can be repeated, as far as a module names them."""
    wrong = [source for source in ORDINARY if uses(everywhere(tree), source)]
    # `import numpy as np; np.random...` imports nothing forbidden and is forbidden all the same.
    return wrong + [
        f"{node.value.id}.random"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "random" and isinstance(node.value, ast.Name)
        and node.value.id in ("np", "numpy", "torch")
    ]  # fmt: skip


def drawing(tree: ast.AST) -> list[str]:
    """Names that draw ordinary random numbers, whatever they are called on."""
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    named = {name.rpartition(".")[2] for name in everywhere(tree)}
    return sorted((called | named) & DRAWING)


def test_no_ordinary_randomness_where_secrets_are_made() -> None:
    watched = [path for room in ROOMS for path in modules(room) if path.stem in NO_ORDINARY_RANDOMNESS]
    assert {path.stem for path in watched} == NO_ORDINARY_RANDOMNESS
    assert not [(path, wrong) for path in watched if (wrong := ordinary_sources(parsed(path)))]


MASKS = REPOSITORY / "core" / "edgehold" / "core" / "masks"


def test_no_ordinary_randomness_where_masks_are_made() -> None:
    watched = sorted(MASKS.rglob("*.py"))
    assert {"client", "draw", "shamir", "pads", "noise"} <= {path.stem for path in watched}
    assert not [(path, wrong) for path in watched if (wrong := ordinary_sources(parsed(path)) + drawing(parsed(path)))]


def test_masks_are_pure() -> None:
    """No sockets, clocks, files or threads: whoever plays the machines brings them."""
    for path in sorted(MASKS.rglob("*.py")):
        names = everywhere(parsed(path))
        assert not [
            one for one in ("socket", "time", "pathlib", "threading", "asyncio", "secrets", "grpc") if uses(names, one)
        ], path
        assert not uses(names, "os") or path.stem == "terms"  # where the system's randomness is the default
        called = {
            node.func.id for node in ast.walk(parsed(path)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert "open" not in called, path


def test_the_source_of_masks_is_given_in_tests_alone() -> None:
    """Whoever can give the source can make the keys again: the product never names one, and takes the system's."""
    for path in (path for room in ROOMS for path in modules(room)):
        given = [
            keyword.arg
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("MaskClient.advertise", "draw_value", ".drawn"))
            for keyword in node.keywords
        ]
        assert not {"source", "words"} & set(given), path


PRIVACY = REPOSITORY / "core" / "edgehold" / "core" / "privacy"


def test_no_ordinary_randomness_where_noise_is_drawn() -> None:
    watched = sorted(PRIVACY.rglob("*.py"))
    assert "noise" in {path.stem for path in watched}
    assert not [(path, wrong) for path in watched if (wrong := ordinary_sources(parsed(path)) + drawing(parsed(path)))]


@pytest.mark.parametrize(
    "planted",
    [
        "import random",
        "def f():\n    from random import gauss",
        "import numpy as np\ndef draw(n):\n    return np.random.default_rng().integers(n)",
        "from numpy.random import Generator, Philox",
        "import numpy.random as r",
        "from numpy import random",
        "import torch\nx = torch.randn(3)",
        "import torch\ng = torch.Generator()",
        "from torch import randn_like",
        "from torch import normal as n",
        "import torch\ntorch.empty(3).normal_()",
        "import torch\ntorch.random.manual_seed(1)",
        "from torch.random import fork_rng",
        "from edgehold.core.rng import stream",
        "from edgehold.core import rng",
        "from edgehold.core.streams import client_stream",
        "from statistics import NormalDist\nx = NormalDist().samples(3)",
    ],
)
def test_planted_ordinary_randomness_is_found(planted: str) -> None:
    source = (PRIVACY / "noise.py").read_text(encoding="utf-8")
    found = ast.parse(f"{source}\n{planted}\n")
    assert ordinary_sources(found) + drawing(found)


def test_keys_for_noise_are_given_in_tests_alone() -> None:
    """Whoever can give a key can draw the noise again: no module but its own knows of `KeyedNoise`."""

    def knows(path: Path) -> bool:
        tree = parsed(path)
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        imports = {name.rpartition(".")[2] for name in everywhere(tree)}
        return "KeyedNoise" in names | attributes | imports

    assert [path for room in ROOMS for path in modules(room) if knows(path)] == [PRIVACY / "noise.py"]
    assert knows(REPOSITORY / "tests" / "support" / "fixed_noise.py")


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


def test_a_device_runs_a_model_without_what_made_it() -> None:
    """All that infer, detect, deploy and rollback load, up to outputs: no training library, and nothing that writes graphs."""
    code = f"""
import sys, tempfile
from pathlib import Path
sys.path.insert(0, {str(REPOSITORY)!r})
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY + ("onnx", "onnxscript")!r}:
            raise AssertionError(f"{{name}} is loaded")
sys.meta_path.insert(0, Absent())
from edgehold.client import app, deployed, detect, infer, received, stream
from edgehold.core import handover, onnx_run, vote_file
from edgehold.defenses import registry
for name in registry.VOTED:
    registry.vote(name)
"""
    found = loaded_by(code)
    assert {"edgehold.client.infer", "edgehold.defenses.frl.vote"} <= found
    assert not halves(found, "server")
    assert not halves(found, "client")


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
