"""A plot as two pictures, for light and for dark pages."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

THEMES = {"light": ("#ffffff", "#1a202c", "#718096"), "dark": ("#171b22", "#e2e8f0", "#8a97a8")}
"""Name -> background, ink, and what is less important."""
COLOURS = ("#c53030", "#2b6cb0", "#2f855a", "#b7791f", "#805ad5", "#0f8b8d", "#d53f8c", "#7b8794")
"""The first one is for where nobody defends."""
MARKS = "osD^vPX*"
DPI = 100


@dataclass(frozen=True, slots=True)
class Picture:
    """name: of the file, without its end. alt: what it shows, in words. light, dark: PNG."""

    name: str
    title: str
    alt: str
    light: bytes
    dark: bytes


def both(name: str, title: str, alt: str, draw: Callable[[Any, str], None]) -> Picture:
    """draw(figure, ink), once for each theme."""
    import matplotlib
    from matplotlib.figure import Figure

    made = {}
    for theme, (paper, ink, faint) in THEMES.items():
        style: Any = {
            "figure.facecolor": paper, "axes.facecolor": paper, "savefig.facecolor": paper, "text.color": ink, "font.size": 9.0,
            "axes.labelcolor": ink, "axes.edgecolor": faint, "xtick.color": ink, "ytick.color": ink, "grid.color": faint,
            "axes.titlecolor": ink, "axes.titlesize": 10.0, "axes.titleweight": "bold",
        }  # fmt: skip
        with matplotlib.rc_context(style):
            figure, out = Figure(layout="constrained"), BytesIO()
            draw(figure, ink)
            figure.savefig(out, dpi=DPI, format="png")
            made[theme] = _small(out)
    return Picture(name, title, alt, made["light"], made["dark"])


def _small(png: BytesIO) -> bytes:
    """The same with a palette: a third of the bytes."""
    from PIL import Image

    out = BytesIO()
    Image.open(png).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()
