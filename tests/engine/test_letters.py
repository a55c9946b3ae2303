"""Methods whose devices read each other, in one process: the same twice, and the same when a run goes on from its store."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import adding
from tests.support.reading_bed import plan

from edgehold.client.data.synthetic import make_task
from edgehold.core.plan import parse_plan
from edgehold.defenses import registry
from edgehold.server import engine

TASKS = {f"dev-{i}": make_task(50, i) for i in range(4)}


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    adding.register()
    yield
    adding.forget()


def play(rounds: int, **more: Any) -> engine.Result:
    return engine.run(*parse_plan(plan("letters", rounds, 4), registry.method), TASKS, **more)


def test_the_same_twice() -> None:
    assert play(4).digest == play(4).digest != play(3).digest


def test_a_run_that_was_killed_reads_the_letters_of_its_last_round(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(number: int, facts: Any) -> None:
        if number == 2:
            raise Killed

    path = tmp_path / "run.sqlite"
    with pytest.raises(Killed):
        play(4, store=engine.Store(path), on_round=kill)
    store = engine.Store(path)
    assert sorted(store.letters()) == sorted(TASKS)
    assert play(4, store=store).digest == play(4).digest
    # Without them the devices would have read nothing in the third round.
    lost = tmp_path / "lost.sqlite"
    with pytest.raises(Killed):
        play(4, store=engine.Store(lost), on_round=kill)
    store = engine.Store(lost)
    store._db.execute("UPDATE letter SET data = x'00'")
    assert play(4, store=store).digest != play(4).digest


def test_an_adversarys_letter_is_read_like_any_other() -> None:
    class Loud:
        def __init__(self, honest: Any) -> None:
            self.honest = honest

        def work(self, order: Any, local: float, task: Any, rng: Any) -> Any:
            _, update, facts = self.honest.work(order, local, task, rng)
            return local, adding.Update(update.values, 1000.0), facts

        def __getattr__(self, name: str) -> Any:
            return getattr(self.honest, name)

    lied = play(4, adversaries={"dev-3": lambda honest, client: Loud(honest)})
    assert lied.digest != play(4).digest


def test_ids_of_clients_are_no_part_of_a_path(tmp_path: Path) -> None:
    """Letters lie by their digests; virtual clients may be called anything."""
    names = ["../up", "site/1", "/etc/none", "dev"]
    tasks = {name: make_task(50, i) for i, name in enumerate(names)}
    store = engine.Store(tmp_path / "run.sqlite")
    engine.run(*parse_plan(plan("letters", 3, 4), registry.method), tasks, store=store)
    kept = store.kept()
    assert kept is not None
    assert len(kept.rounds) == 3
    assert sorted(store.letters()) == sorted(names)
