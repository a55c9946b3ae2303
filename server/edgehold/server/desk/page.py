"""The status page: one HTML document that needs nothing else, and the same facts as JSON. Jinja is loaded when it is asked for.

Names, reasons and messages come from outside: the template escapes every value, and the page may load and run nothing at all
(`wire.loopback.POLICY`), but for its one style sheet, which is named by its digest.
"""

import hashlib
import json
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from edgehold.core.errors import ConfigError
from edgehold.server.desk.show import size, when
from edgehold.server.wire.loopback import POLICY, Reply

if TYPE_CHECKING:
    from jinja2 import Template

WIDTH, HEIGHT = 480.0, 160.0
"""Of the curve, in units of its own."""
REFRESH_BUSY_S, REFRESH_IDLE_S = 10, 30


def must_have_engine() -> None:
    """`ConfigError` where there is nothing to make the page with."""
    if find_spec("jinja2") is None:
        raise ConfigError(
            "server.toml: server.status_page = true needs jinja2, which is not installed here: pip install 'edgehold[server]'",
            field="server.status_page",
        )


def as_json(overview: dict[str, Any], accept: str = "") -> Reply:
    """What the page says, for programs."""
    text = json.dumps(overview, allow_nan=False, sort_keys=True, indent=1)
    return Reply(text.encode(), "application/json; charset=utf-8")


def html(overview: dict[str, Any], accept: str = "") -> Reply:
    """The page."""
    style, digest = _style()
    shown = overview["shown"]
    busy = bool(overview["open_rounds"]) or any(run["state"] == "running" for run in overview["runs"])
    text = _template().render(
        **overview, style=style, refresh_s=REFRESH_BUSY_S if busy else REFRESH_IDLE_S,
        curve=polyline(shown["curve"]) if shown else "", width=WIDTH, height=HEIGHT,
    )  # fmt: skip
    return Reply(text.encode(), "text/html; charset=utf-8", policy=f"{POLICY}; style-src 'sha256-{digest}'")


def polyline(curve: Sequence[tuple[int, float]]) -> str:
    """Points of an SVG polyline: rounds from the first to the last over the whole width, 0 at the bottom and 1 at the top."""
    if not curve:
        return ""
    first, last = curve[0][0], curve[-1][0]
    across = WIDTH / max(1, last - first)
    return " ".join(f"{(number - first) * across:.1f},{(1 - min(1.0, max(0.0, one))) * HEIGHT:.1f}" for number, one in curve)


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60)} s"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def number(value: float | None, digits: int = 3) -> str:
    """A number for people; "-" for none."""
    return "-" if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """A share for people; "-" for none."""
    return "-" if value is None else f"{100 * value:.0f} %"


def most(counts: dict[str, int]) -> list[tuple[str, int]]:
    """Most frequent first."""
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))


@cache
def _style() -> tuple[str, str]:
    text = (files("edgehold.server.desk") / "page.css").read_text(encoding="utf-8")
    return text, b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _template() -> "Template":
    from jinja2 import Environment, StrictUndefined

    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {
        "duration": duration, "number": number, "percent": percent, "size": size, "when": when, "most": most,
    }  # fmt: skip
    return made.from_string((files("edgehold.server.desk") / "page.html.j2").read_text(encoding="utf-8"))
