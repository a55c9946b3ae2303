"""Inversions: what they read of CIFAR-10 images from one update, what they cost, and what is left of it under noise.

Every gradient comes out of a method's own halves, so that it has the rounding a server really sees. Images are of the test set;
attackers have others of it as public records. `frame.data_set` says where it lies. Seconds are processor seconds of one
thread. Where DP rows are, epsilon is 8 at delta 1e-5 for the one round, by dp_sgd's own account and noise.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.frame import ROOT, Options, Row, data_set, load_average, no_data
from edgehold.attacks.inversion import bins, catalogue
from edgehold.attacks.inversion.metrics import Score, score
from edgehold.attacks.inversion.observed import Aim, Observed, Reconstruction
from edgehold.attacks.inversion.one_round import private, seen
from edgehold.attacks.poisoning.catalogue import Scene, poisoned
from edgehold.attacks.poisoning.victim import SvmVictim
from edgehold.client.data.catalogue import load as load_moon
from edgehold.core.errors import ConfigError
from edgehold.core.vectors import Array

NAME = "attacks"
SUMMARY = "inversions: PSNR, share of images read, processor seconds; and the same under DP"
DOCS = ROOT / "docs" / "attacks.md"
"""Where `--write-docs` puts the table."""

SHAPE = (3, 32, 32)
PRIVATE, PUBLIC = 1000, 1000
"""Images that devices have, and that attackers have."""
EXACT = 60.0
PATIENCE_S = 900.0
"""For one image of the peer's."""
HYPER: dict[str, Any] = {"embedding": 8, "hidden": 16, "local_epochs": 1}


def rows(options: Options) -> Iterator[Row]:
    """Each attack where nothing protects, then all of them under noise."""
    few = options.quick
    if options.wants_any("closed form"):
        yield from _strength("closed form", "closed-form", _singles(1 if few else 20, [64]), 100.0)
    if options.wants_any("sparse directions"):
        for records, wide, least in ((8, 512, 8), (16, 512, 16), (32, 1024, 28)):
            yield from _sparse(records, [wide, 256], 1 if few else 10, least)
        yield from _sparse(16, [512], 1 if few else 10, None)
    if options.wants_any("bins"):
        yield from _bins(1 if few else 5)
    if options.wants_any("hyperfl"):
        yield from _strength("hyperfl, bias of the outlets", "closed-form", _singles(1 if few else 5, [64], "hyperfl"), 100.0)
    if options.wants_any("dlg"):
        yield from _strength(
            "dlg, sigmoid LeNet", "dlg", _images(1 if few else 5), 35.0, restarts=3, iterations=3 if few else 0
        )
    if options.wants_any("cosine"):
        works = _images(1 if few else 5)
        yield from _strength("cosine, sigmoid LeNet", "cosine", works, 16.0, 22.0, restarts=1, iterations=20 if few else 4800)
    if options.peer and options.wants_any("cosine beside breaching"):
        yield from _beside(options, 1 if few else 5, 20 if few else 4800)
    if options.wants_any("labels"):
        yield from _labels(1 if few else 5)
    if options.wants_any("under dp"):
        yield from _under_noise(few)


Work = tuple[Observed, Array, Array, Any]
"""What was observed, the truth, its labels, and the server's copy of the task."""


def _strength(
    name: str, attack: str, works: Iterator[Work], least: float | None, most_s: float | None = None, **more: Any
) -> Iterator[Row]:
    load, found = load_average(), [_one(attack, work, **more) for work in works]
    scores = [judged.median for judged, _ in found]
    quick = more.get("iterations", 4800) < 4800 and more.get("iterations", 0) > 0
    labels = [judged.label_accuracy for judged, _ in found if judged.label_accuracy is not None]
    told = f"; labels right {np.mean(labels):.0%}" if labels else ""
    note = f"median of {len(scores)} images, {min(scores):.1f} to {max(scores):.1f}{told}"
    yield Row(name, median(scores), "dB", None if quick else least, None, load, note, at_least=True)
    took = [got.seconds for _, got in found]
    aim = None if quick else most_s
    yield Row(f"{name}, time", median(took), "s", aim, None, load, f"processor seconds an image; slowest {max(took):.3g}")


def _beside(options: Options, images: int, iterations: int) -> Iterator[Row]:
    """Our cosine and breaching's inverting gradients in turn: the same module, weights, gradient, scorer, one thread each."""
    import torch

    load = load_average()
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for seed, work in enumerate(_images(images)):
        observed, x, _, task = work
        judged, got = _one("cosine", work, restarts=1, iterations=iterations)
        ours.append((judged.median, got.seconds))
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            source, target = Path(folder) / "in.pt", Path(folder) / "out.npy"
            parts = {
                name: [torch.from_numpy(part.copy()).float() for part in tensors]
                for name, tensors in (("weights", observed.weights()), ("gradients", observed.tensors()))
            }
            torch.save({"module": task.module, "shape": SHAPE, "classes": 10, "records": 1, **parts}, source)
            arguments = (source, target, iterations, seed)
            seconds = peers.measured(peers.BREACHING, "inversion_peer.py", arguments, options, PATIENCE_S)["seconds"]
            theirs.append((score(np.load(target).astype(np.float64), x, 1.0).median, seconds))
    quick = options.quick
    (best, took), (peer, spent) = (np.mean(found, axis=0) for found in (ours, theirs))
    (off, slow), (astray, late) = (np.std(found, axis=0) for found in (ours, theirs))
    told = (
        f"mean of {images} images, {iterations:,} iterations; deviation {off:.2f}; breaching {peer:.2f}, deviation {astray:.2f}"
    )
    yield Row("cosine beside breaching", float(best), "dB", None if quick else float(peer), None, load, told, at_least=True)
    told = f"processor seconds, deviation {slow:.2f}; breaching {spent:.2f}, deviation {late:.2f}"
    yield Row("cosine beside breaching, time", float(took), "s", None if quick else float(spent), None, load, told)


def _sparse(records: int, hidden: list[int], draws: int, least: int | None) -> Iterator[Row]:
    load, read, took = load_average(), [], []
    for seed in range(draws):
        judged, got = _one("sparse", _batch(seed, records, hidden))
        read.append(int(judged.above(EXACT) * records + 0.5))
        took.append(got.seconds)
    name = f"sparse directions, batch {records}, layers {'-'.join(map(str, hidden))}"
    note = f"images above {EXACT:g} dB, median of {draws} batches: {', '.join(map(str, read))}"
    yield Row(name, median(read), "images", least, None, load, note, at_least=True)
    yield Row(
        f"{name}, time", median(took), "s", 2.0 if records < 32 and least else None, None, load, f"slowest {max(took):.2g}"
    )


def _bins(draws: int) -> Iterator[Row]:
    load = load_average()
    found = [_one("bins", _imprinted(seed, 64, seen)) for seed in range(draws)]
    shares = [judged.above(35.0) for judged, _ in found]
    note = f"of 64 images above 35 dB, mean of {draws} batches, {min(shares):.2f} to {max(shares):.2f}"
    yield Row("bins, 1,024 of them", float(np.mean(shares)), "share", 0.9, None, load, note, at_least=True)
    yield Row("bins, time", median(got.seconds for _, got in found), "s", None, None, load, "a batch")


def _labels(seeds: int) -> Iterator[Row]:
    """Accuracy on clean records of a machine that learned from flipped labels of the moons (500 records, C 10, gamma 0.5)."""
    load = load_average()
    splits = [load_moon("moon", seed=seed) for seed in range(seeds)]
    held = [load_moon("moon", seed=seed, data={"part": "validation"}).test for seed in range(seeds)]

    def scores(name: str, share: float) -> list[float]:
        found = []
        for seed, (split, more) in enumerate(zip(splits, held, strict=True)):
            scene = Scene(split.train.x, split.train.y, 2, 0.5, 10.0, more.x, more.y)
            labels = poisoned(name, scene, share, seed) if name else split.train.y
            judge = SvmVictim(split.train.x, 0.5, 10.0, split.test.x).train(labels)
            found.append(float(((judge.held > 0) == split.test.y).mean()))
        return found

    yield Row("labels, none flipped", float(np.mean(scores("", 0))), "accuracy", None, None, load, f"mean of {seeds} draws")
    for share in (0.05, 0.1, 0.25):
        alone = {name: scores(name, share) for name in ("random", "heavy", "nearest", "farthest", "alfa", "alfa-tilt")}
        for name, found in alone.items():
            note = f"mean of {seeds} draws, deviation {np.std(found):.3f}"
            yield Row(f"labels, {share:.0%} {name}", float(np.mean(found)), "accuracy", None, None, load, note)
        found, best = scores("search", share), min(float(np.mean(found)) for found in alone.values())
        # The catalogue calls it stronger than each alone at 5 and 10 %.
        note = f"mean of {seeds} draws, deviation {np.std(found):.3f}; the strongest other {best:.3f}"
        yield Row(
            f"labels, {share:.0%} search", float(np.mean(found)), "accuracy", best if share <= 0.1 else None, None, load, note
        )


def _under_noise(few: bool) -> Iterator[Row]:
    # The same effort as where nothing protects: a defeat of a lazier attack would say nothing about the noise.
    images = 1 if few else 5
    match = {"restarts": 3, "iterations": 3 if few else 0}
    effort = {"restarts": 1, "iterations": 20 if few else 4800}
    for name, attack, works, more in (
        ("closed form", "closed-form", _singles(images, [64], noisy=True), {}),
        ("sparse directions, batch 8", "sparse", (_batch(s, 8, [512, 256], noisy=True) for s in range(images)), {}),
        ("bins", "bins", (_imprinted(s, 64, _quietly) for s in range(images)), {}),
        ("hyperfl", "closed-form", _singles(images, [64], "hyperfl", noisy=True), {}),
        ("dlg", "dlg", _images(images, noisy=True), match),
        ("cosine", "cosine", _images(images, noisy=True), effort),
    ):
        load = load_average()
        found = [_one(attack, work, **more) for work in works]
        best = max(max(judged.psnr) for judged, _ in found)
        scores, given = [judged.median for judged, _ in found], [len(got.images) for _, got in found]
        told = f"median of {len(scores)}, {min(scores):.1f} to {max(scores):.1f}; best image {best:.1f}"
        back = ", ".join(map(str, given))
        note = f"{told}; images given back: {back}; a uniformly grey image reaches {_grey():.1f}"
        yield Row(f"under dp, {name}", median(scores), "dB", 12.0, None, load, note)


def _one(attack: str, work: Work, **more: Any) -> tuple[Score, Reconstruction]:
    observed, x, y, model = work
    aim = Aim(SHAPE, len(x), 10, (0.0, 1.0), _cifar()[0][PRIVATE : PRIVATE + PUBLIC], model=model, **more)
    got = catalogue.find(attack).invert(observed, aim)
    return score(got.images, x, 1.0, got.labels, y), got


def _quietly(task: Any, seed: int, start: Array | None, batch_size: int) -> Observed:
    return private(task, seed, batch_size, start=start)


def _singles(count: int, hidden: list[int], method: str = "fedavg", noisy: bool = False) -> Iterator[Work]:
    for seed in range(count):
        task, x, y = _mlp(seed, 1, hidden)
        if method == "hyperfl":
            # Noise over clip for epsilon 8 at delta 1e-5, one release: its account says 7.92.
            observed = seen(task, seed, method, **(HYPER | ({"noise_multiplier": 1.21} if noisy else {})))
        else:
            observed = private(task, seed, 1) if noisy else seen(task, seed)
        yield observed, x, y, task


def _batch(seed: int, records: int, hidden: list[int], noisy: bool = False) -> Work:
    task, x, y = _mlp(seed, records, hidden)
    return private(task, seed, records) if noisy else seen(task, seed, batch_size=records), x, y, task


def _imprinted(seed: int, records: int, play: Callable[..., Observed]) -> Work:
    task, x, y = _mlp(seed, records, [1024, 64])
    sent = bins.craft(task.initial(seed), task.schema, _cifar()[0][PRIVATE : PRIVATE + PUBLIC])
    return play(task, seed, start=sent, batch_size=records), x, y, task


def _images(count: int, noisy: bool = False) -> Iterator[Work]:
    for seed in range(count):
        task, x, y = _task(seed, 1, sigmoid_lenet)
        yield private(task, seed, 1) if noisy else seen(task, seed), x, y, task


def sigmoid_lenet() -> Any:
    """The network of DLG and its first weights, uniform in -0.5..0.5. Source: Zhu et al. 2019, their code."""
    from torch import nn

    layers: list[Any] = []
    for before, stride in ((3, 2), (12, 2), (12, 1)):
        layers += [nn.Conv2d(before, 12, 5, stride, 2), nn.Sigmoid()]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(768, 10))
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return model


def _mlp(seed: int, records: int, hidden: list[int]) -> tuple[Any, Array, Array]:
    from edgehold.client.models import make_model

    return _task(seed, records, lambda: make_model("mlp", SHAPE, 10, hidden=hidden))


def _task(seed: int, records: int, model: Callable[[], Any]) -> tuple[Any, Array, Array]:
    from torch import nn

    from edgehold.core.torch_task import TorchTask

    inputs, labels = _cifar()
    chosen = np.random.default_rng(seed).choice(PRIVATE, records, replace=False)
    x, y = inputs[chosen], labels[chosen]
    return TorchTask(model, (x, y), None, nn.functional.cross_entropy), x, y


def _grey() -> float:
    """Median PSNR of an image that is the public mean everywhere: what reading nothing looks like."""
    inputs = _cifar()[0]
    errors = ((inputs[:PRIVATE] - inputs[PRIVATE : PRIVATE + PUBLIC].mean()) ** 2).reshape(PRIVATE, -1).mean(1)
    return float(np.median(-10 * np.log10(errors)))


@lru_cache(maxsize=1)
def _cifar() -> tuple[Array, Array]:
    from edgehold.client.data.deal import deal

    place = data_set("cifar10")
    if place is None:
        raise ConfigError(no_data("cifar10"))
    held = deal("cifar10", str(place), devices=100).test(None, PRIVATE + PUBLIC)
    return np.asarray(held.x), np.asarray(held.y)
