"""Texts: characters of Shakespeare's plays by speaker, film reviews as bags of hashed words."""

import re
import zlib
from pathlib import Path

import msgspec
import numpy as np

from edgehold.client.data.dataset import Array, Dataset, IntArray, Split
from edgehold.client.data.files import Content, Known, Version, combined, digest_of, read, require, sources
from edgehold.core.errors import ConfigError

_PLAYS = Known(
    ("input.txt", "tinyshakespeare.txt"),
    (Version("char-rnn", "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),),
    "repository karpathy/char-rnn, data/tinyshakespeare/input.txt",
)
_REVIEW_HOME = "https://ai.stanford.edu/~amaas/data/sentiment/ (aclImdb_v1.tar.gz, unpacked)"
_REVIEWS = (
    Known(
        ("imdb_train_10000.jsonl",),
        (Version("subset", "sha256:420964b9102b1512c69e905fabb8f976d340d0da7d0dca5b20a2346142118081"),),
        _REVIEW_HOME,
    ),
    Known(
        ("imdb_test_5000.jsonl",),
        (Version("subset", "sha256:7cb5ea411c0d1b0f0d0ebc589cb4b0958974c10f00ad08b65e85e75cd672d3de"),),
        _REVIEW_HOME,
    ),
)
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_SENTIMENTS = ("negative", "positive")


class _Review(msgspec.Struct):
    text: str
    label: int


def shakespeare(
    path: str | Path,
    *,
    seed: int = 0,
    verify: bool = True,
    length: int = 80,
    min_characters: int = 2000,
    test_share: float = 0.2,
) -> Split:
    """Next character: raw and y (n, length) int64, y one place ahead of raw; groups: speaker; classes: the characters.

    Speeches of a speaker are joined by line breaks and cut into windows that do not overlap; the last `test_share` of every
    speaker's windows is held out. min_characters: speakers who say less are left out (99 of 299 say 2,000 or more).
    """
    if length < 1 or not 0 < test_share < 1:
        raise ConfigError(f"length = {length}, test_share = {test_share}; expected 1 or more, and between 0 and 1")
    content = read(require(path, _PLAYS), _PLAYS, verify)
    said = speeches(content)
    symbols = np.unique(np.frombuffer(content.data, np.uint8))
    place = np.zeros(256, np.int64)
    place[symbols] = np.arange(len(symbols))
    names: list[str] = []
    parts: dict[bool, list[tuple[Array, ...]]] = {False: [], True: []}
    for speaker in sorted(said):
        text = place[np.frombuffer(said[speaker], np.uint8)]
        count = (len(text) - 1) // length
        if len(text) < min_characters or count < 1:
            continue
        windows = text[: count * length].reshape(count, length), text[1 : count * length + 1].reshape(count, length)
        kept = count - int(count * test_share)
        for late, rows in ((False, slice(0, kept)), (True, slice(kept, count))):
            parts[late].append((windows[0][rows], windows[1][rows], np.full(len(windows[0][rows]), len(names), np.int64)))
        names.append(speaker)
    if not names or not sum(len(part[0]) for part in parts[True]):
        raise ConfigError(f"{content.path}: no speaker says enough for min_characters = {min_characters}, length = {length}")
    classes = tuple(bytes([symbol]).decode("latin-1") for symbol in symbols)
    halves = []
    for late in (False, True):
        raw, y, groups = (np.concatenate(part) for part in zip(*parts[late], strict=True))
        found, digest = sources([content]), combined([content])
        halves.append(Dataset("shakespeare", raw, y, (), classes, found, digest, groups, tuple(names)))
    return Split(*halves)


def speeches(content: Content) -> dict[str, bytes]:
    """Speaker -> everything said, without the speaker's name."""
    said: dict[str, list[bytes]] = {}
    for number, speech in enumerate(content.data.strip(b"\n").split(b"\n\n")):
        speech = speech.lstrip(b"\n")  # some speeches are parted by more than one empty line
        speaker, colon, words = speech.partition(b":\n")
        if not colon and not speech.endswith(b":"):
            raise ConfigError(f"{content.path}: speech {number + 1} does not open with a speaker and a colon")
        said.setdefault(speaker.removesuffix(b":").decode("latin-1"), []).append(words)
    return {speaker: b"\n".join(parts) for speaker, parts in said.items()}


def imdb(path: str | Path, *, seed: int = 0, verify: bool = True, length: int = 256, buckets: int = 8192) -> Split:
    """Film reviews: raw (n, length) int64, hashed words of the first `length`, 0 behind the end; y: 1 for positive.

    path: folder with the two JSON-lines files of the subset (10,000 + 5,000), or the unpacked `aclImdb` (25,000 + 25,000,
    no checksum known, so only with verify = false). buckets: numbers of words; a word is 1 + CRC-32 modulo the rest, the
    same on every device without a shared dictionary.
    """
    if length < 1 or buckets < 2:
        raise ConfigError(f"length = {length}, buckets = {buckets}; expected at least 1 and 2")
    folder = Path(path).expanduser()
    if (folder / "train" / "pos").is_dir():
        return Split(*(_folder(folder / part, length, buckets, verify) for part in ("train", "test")))
    if folder.is_file():
        raise ConfigError(f"{path}: is a file; expected the folder with {_REVIEWS[0].names[0]}", field="path")
    halves = []
    for known in _REVIEWS:
        content = read(require(path, known), known, verify)
        reviews = _lines(content)
        texts, labels = [review.text for review in reviews], [review.label for review in reviews]
        halves.append(_reviews(texts, labels, length, buckets, sources([content]), combined([content])))
    return Split(*halves)


def hashed_words(texts: list[str], length: int, buckets: int) -> IntArray:
    """(texts, length) int64 in 0..buckets-1; 0 where a text is over. Letters only, lower case, no markup."""
    known: dict[str, int] = {}
    raw = np.zeros((len(texts), length), np.int64)
    for row, text in enumerate(texts):
        words = _WORD.findall(text.replace("<br />", " ").lower())[:length]
        for word in words:
            if word not in known:
                known[word] = 1 + zlib.crc32(word.encode()) % (buckets - 1)
        raw[row, : len(words)] = [known[word] for word in words]
    return raw


def _reviews(texts: list[str], labels: list[int], length: int, buckets: int, source: str, digest: str) -> Dataset:
    raw = hashed_words(texts, length, buckets)
    return Dataset("imdb", raw, np.array(labels, np.int64), (), _SENTIMENTS, source, digest)


def _lines(content: Content) -> list[_Review]:
    decode = msgspec.json.Decoder(_Review).decode
    reviews = []
    for number, line in enumerate(content.data.strip(b"\n").split(b"\n")):
        try:
            review = decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{content.path}: row {number + 1}: {error}; expected text and label") from None
        if review.label not in (0, 1):
            raise ConfigError(f"{content.path}: column 'label', row {number + 1} is {review.label}; allowed: 0, 1")
        reviews.append(review)
    return reviews


def _folder(folder: Path, length: int, buckets: int, verify: bool) -> Dataset:
    if verify:
        raise ConfigError(f"{folder}: no checksum of the unpacked folder is known; to load it as it is: verify = false")
    texts, labels, digests = [], [], []
    for label, name in enumerate(("neg", "pos")):
        for place in sorted((folder / name).glob("*.txt")):
            data = place.read_bytes()
            texts.append(data.decode("utf-8", errors="replace"))
            labels.append(label)
            digests.append(digest_of(data))
    if not texts:
        raise ConfigError(f"{folder}: no neg/*.txt and pos/*.txt. Get it: {_REVIEW_HOME}", field="path")
    return _reviews(texts, labels, length, buckets, str(folder), "unverified " + digest_of("\n".join(digests).encode()))
