"""The status page: whatever names and reasons say, it is text; it loads nothing; a browser runs nothing of it."""

import hashlib
import json
import re
import shutil
import subprocess
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgehold.server.desk import page
from edgehold.server.desk.page import HEIGHT, WIDTH, as_json, duration, html, polyline

HOSTILE = [
    "<script>document.title='owned'</script>",
    "\"'><img src=x onerror=\"document.title='owned'\">",
    "</title></style><svg onload=\"document.title='owned'\">",
    "{{ 7 * 7 }}{% for x in y %}",
    "javascript:document.title='owned'",
    "\u202egnp.exe\u0000\u2028&lt;&#x3c;",
    "<!--",
    "]]>",
    "a" * 300,
]


def overview(texts: list[str] | None = None) -> dict[str, Any]:
    """A fleet in which everything happens. texts: that come from outside, wherever one can."""
    said = texts or ["ward", "quiet"]

    def text(at: int) -> str:
        return said[at % len(said)]

    facts = {
        "accuracy": 0.5, "clients_admitted": 3.0, "clients_selected": 4.0, "bytes_up": 1e6, "bytes_down": 2e6,
        "round_seconds": 1.5, "mask_groups": 2.0, "mask_groups_void": 1.0, "mask_groups_lost": 1.0, "epsilon_worst": None,
    }  # fmt: skip
    names = [text(at) + (str(at) if texts is None else "") for at in range(len(said) + 2)]
    return {
        "server": {
            "federation": text(0), "software": "0", "boot": 1, "time_unix_s": 1.8e9, "uptime_s": 100.0,
            "disk_free_ratio": 0.1, "open_uploads": 1, "journal_commits": 5, "journal_commits_over_1s": 1,
            "journal_sync_mean_s": 0.004,
        },
        "runs": [
            {"run": name, "state": state, "error": name, "task": name, "method": name, "rule": name, "rounds_done": 2,
             "rounds_planned": 9, "seconds": 1.0, "created_unix_s": 1.8e9, "model": "", "facts": facts}
            for name, state in zip(names, ["running", "failed", "stopped", "finished", "queued"] * 9, strict=False)
        ],
        "shown": {"run": names[0], "rounds_planned": 9, "score": "accuracy", "curve": [(1, 0.25), (2, 0.5)],
                  "rounds": [{"round": 2, "attempt": 2, "facts": facts}, {"round": 1, "attempt": 1, "facts": {}}]},
        "open_rounds": [
            {"run": name, "round": 3, "attempt": 1, "state": "open", "age_s": 700.0, "deadline_s": 600.0, "selected": 4,
             "admitted": 1, "rejected": 1, "lost": 1, "missing": names, "bytes_up": 10, "bytes_down": 20, "masked": True,
             "reasons": dict(zip(names, reversed(names), strict=True))}
            for name in names[:1]
        ],
        "clients": {
            "roster": 500, "active": 4, "enrolled": 4, "connected": 3, "missing": 1, "least_life_left": 0.1,
            "listed": [
                {"client": name, "state": "active", "enrolled": at % 2 == 0, "connected": True, "missing": at == 1,
                 "admitted": 1, "rejected": 1, "certificate_life_left": None if at else 0.2, "tasks": [name, name]}
                for at, name in enumerate(names)
            ],
        },
        "counts": {
            "refusals": {name: 1 for name in names}, "rejections": {name: 2 for name in names},
            "declines": {name: 3 for name in names}, "mask_groups": {"summed": 4, "void": 1}, "mask_dropouts": {"keys": 2},
            "rounds_committed": 2, "rounds_abandoned": 1, "payload_received_bytes": 5, "payload_sent_bytes": 6,
        },
        "refused": [{"time_unix_s": 1.8e9, "caller": name, "code": name, "method": name, "message": name} for name in names],
        "budgets": [
            {"task": name, "epsilon": 7.0, "max_epsilon": 8.0, "delta": 1e-5, "spent_ratio": 0.875} for name in names
        ],
    }  # fmt: skip


EMPTY: dict[str, Any] = overview() | {
    "runs": [], "shown": None, "open_rounds": [], "refused": [], "budgets": [],
    "clients": {"roster": 0, "active": 0, "enrolled": 0, "connected": 0, "missing": 0, "least_life_left": None, "listed": []},
    "counts": {"refusals": {}, "rejections": {}, "declines": {}, "mask_groups": {}, "mask_dropouts": {},
               "rounds_committed": 0, "rounds_abandoned": 0, "payload_received_bytes": 0, "payload_sent_bytes": 0},
}  # fmt: skip


class Seen(HTMLParser):
    """What a browser would make of a page: its elements, their attributes, its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: set[str] = set()
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links |= {value or "" for name, value in attrs if name in ("href", "src")}
        if tag not in ("meta", "line", "polyline", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "polyline", "circle"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


HARMLESS = {
    "html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "span", "dl", "div", "dt", "dd", "small", "section",
    "p", "table", "tr", "th", "td", "bdi", "figure", "figcaption", "svg", "line", "text", "polyline", "circle", "footer", "a",
}  # fmt: skip


@pytest.mark.parametrize("texts", [HOSTILE, [], ["<b>"]])
def test_text_from_outside_stays_text(texts: list[str]) -> None:
    found = Seen(html(overview(texts or None)).body.decode())
    assert found.tags <= HARMLESS
    assert not [name for name in found.attributes if name.startswith("on") or name in ("style", "src", "srcdoc", "action")]
    assert found.links == {"/status.json", "/metrics"}
    assert found.open == []
    for text in texts:
        # A NUL is no character of HTML; a browser shows a sign in its place.
        assert text in found.text


def test_the_policy_allows_the_style_that_is_there_and_nothing_else() -> None:
    reply = html(overview(HOSTILE))
    (style,) = re.findall(r"<style>(.*?)</style>", reply.body.decode(), re.DOTALL)
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = dict(one.split(" ", 1) for one in reply.policy.split("; "))
    assert policy.pop("style-src") == f"'sha256-{digest}'"
    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) == {"'none'"}
    assert "url(" not in style
    assert "@import" not in style


def test_an_empty_fleet_has_a_page() -> None:
    text = Seen(html(EMPTY).body.decode()).text
    assert "Nobody yet" in text
    assert "Nothing." in text
    assert f"every {page.REFRESH_IDLE_S} s" in text


def test_the_page_says_what_is_wrong() -> None:
    text = html(overview()).body.decode()
    for bad in ("1 missing", "1 abandoned", "1 over 1 s", "1 void", "not enrolled", "496 more", "(attempt 2)"):
        assert bad in Seen(text).text, bad
    assert text.count('class="bad"') > 8
    assert f'content="{page.REFRESH_BUSY_S}"' in text


def test_the_curve_goes_from_the_first_round_to_the_last() -> None:
    assert polyline([]) == ""
    assert polyline([(3, 0.0)]) == f"0.0,{HEIGHT}"
    # Three rounds over the whole width; 0.25 stands a quarter up; what is beyond the frame is cut to it.
    assert polyline([(1, 0.0), (2, 0.25), (3, 1.5)]) == f"0.0,{HEIGHT} {WIDTH / 2},{0.75 * HEIGHT} {WIDTH},0.0"


def test_json_is_json() -> None:
    reply = as_json(overview(HOSTILE))
    assert reply.kind.startswith("application/json")
    assert json.loads(reply.body)["open_rounds"][0]["missing"] == overview(HOSTILE)["open_rounds"][0]["missing"]
    with pytest.raises(ValueError, match="JSON compliant"):
        as_json({"x": float("nan")})


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (59.4, "59 s"),
        (60, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (7260, "2 h 1 min"),
        (2e5, "2 d 7 h"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.slow
def test_a_browser_runs_nothing_of_it(tmp_path: Path) -> None:
    """Without the policy even: what is escaped needs none."""
    assert CHROMIUM
    (tmp_path / "page.html").write_bytes(html(overview(HOSTILE)).body)
    (tmp_path / "control.html").write_text(f"<title>calm</title><body>{HOSTILE[0]}", encoding="utf-8")

    def title(name: str) -> str:
        command = [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", (tmp_path / name).as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return str(re.findall(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[0])

    assert title("control.html") == "owned"
    assert "owned" in title("page.html")  # as text: the federation's name
    assert title("page.html") != "owned"
