"""Both machines against lies of clients, repeated messages, and being killed between any two steps."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from tests.masks.test_lying_server import kinds
from tests.support.masked import (
    NOW_S,
    SERVER,
    SERVER_KEY,
    VALUE,
    Memory,
    Played,
    advertised,
    client,
    expected,
    identity,
    lawful,
    masked,
    names,
    revealed,
    roots,
    settled,
    shared,
    terms,
    uploaded,
)

from edgehold.core.errors import (
    BadSignature,
    ConfigError,
    Duplicate,
    FlError,
    GroupLost,
    IdentityError,
    JournalError,
    OutsideLaw,
    Stale,
    WrongShape,
)  # fmt: skip
from edgehold.core.masks import laws, sealing, shamir
from edgehold.core.masks.client import MaskClient
from edgehold.core.masks.client_state import ClientState
from edgehold.core.masks.draw import Entrant
from edgehold.core.masks.gathering import Gathering
from edgehold.core.masks.group import MaskGroup
from edgehold.core.masks.messages import Advert, Box, Reveal
from edgehold.core.vectors import Array, Bytes

COUNT = 9


# Lies of clients.


def gathered(count: int = COUNT) -> tuple[Gathering, dict[str, Advert]]:
    how = terms(names(count))
    adverts = {who: client(who, how, Memory()).advert for who in names(count)}
    return Gathering(how, VALUE, [Entrant(who) for who in names(count)]), adverts


def test_forged_adverts_are_refused_and_honest_ones_come_in_after_them() -> None:
    gathering, adverts = gathered()
    mine, other = adverts["device-000"], adverts["device-001"]
    forged: list[tuple[Advert, type[FlError]]] = [
        (replace(mine, mask_key=other.mask_key), BadSignature),
        (replace(mine, seed_commitment=other.seed_commitment), BadSignature),
        (replace(mine, client="device-001"), IdentityError),
        (replace(mine, client="stranger"), Stale),
        (replace(mine, transcript=b"t" * 32), Stale),
        (replace(mine, mask_key=b"short"), WrongShape),
        (replace(mine, certificate=b"none"), IdentityError),
        (replace(mine, certificate=identity("device-000", number=1).certificate), IdentityError),
        (replace(mine, signing_key=other.signing_key), IdentityError),
    ]
    for advert, error in forged:
        with pytest.raises(error) as caught:
            gathering.add(advert, roots(), NOW_S)
        assert type(caught.value) is error
    assert not gathering.adverts
    for who, advert in adverts.items():
        assert gathering.add(advert, roots(), NOW_S) == advert.digest
        assert gathering.add(advert, roots(), NOW_S) == advert.digest, who  # the same receipt
    with pytest.raises(Duplicate):
        gathering.add(client("device-000", gathering._state.terms, Memory(), "more").advert, roots(), NOW_S)
    bits = np.random.default_rng(5)
    for _ in range(200):  # every bit of what is signed counts
        name = ("mask_key", "seal_key", "seed_commitment", "signature", "transcript")[bits.integers(5)]
        value = bytearray(getattr(mine, name))
        value[bits.integers(len(value))] ^= 1 << int(bits.integers(8))
        fresh = Gathering(terms(names(COUNT)), VALUE, [Entrant(who) for who in names(COUNT)])
        with pytest.raises((BadSignature, Stale)):
            fresh.add(replace(mine, **{name: bytes(value)}), roots(), NOW_S)  # type: ignore[arg-type]


def test_a_stolen_key_comes_in_once() -> None:
    gathering, adverts = gathered()
    gathering.add(adverts["device-000"], roots(), NOW_S)
    thief = identity("device-001")
    bare = replace(adverts["device-001"], seal_key=adverts["device-000"].mask_key)
    with pytest.raises(WrongShape, match="in use already"):
        gathering.add(replace(bare, signature=thief.key.sign(bare.signing_input())), roots(), NOW_S)


def test_too_few_adverts_make_no_group() -> None:
    gathering, adverts = gathered()
    for who in names(7):
        gathering.add(adverts[who], roots(), NOW_S)
    with pytest.raises(GroupLost, match="7 devices"):
        gathering.close()


def test_terms_and_draw_fit_together() -> None:
    with pytest.raises(ConfigError, match="another draw"):
        Gathering(terms(names(COUNT)), b"v" * 32, [Entrant(who) for who in names(COUNT)])
    with pytest.raises(ConfigError, match="modulus"):
        Gathering(terms(names(COUNT), largest=4), VALUE, [Entrant(who) for who in names(COUNT)])


@pytest.fixture
def played() -> Played:
    found = advertised(COUNT)
    shared(found)
    uploaded(found, silent=["device-008"])
    return found


def test_malformed_and_uncalled_for_shares_are_refused(played: Played) -> None:
    found = played.group.freeze(SERVER.sign)
    answer = played.clients["device-000"].reveal(found)
    (gone,), alive = answer.masks, sorted(answer.seeds)
    wrong: list[tuple[Reveal, type[FlError]]] = [
        (replace(answer, client="mole"), WrongShape),
        (replace(answer, client="device-008"), Stale),  # vanished, so not asked
        (replace(answer, set_digest=b"d" * 32), Stale),
        (replace(answer, seeds={**answer.seeds, gone: answer.masks[gone]}), WrongShape),  # both of one device
        (replace(answer, masks={**answer.masks, alive[0]: answer.seeds[alive[0]]}), WrongShape),
        (replace(answer, masks={}), WrongShape),
        (replace(answer, seeds={**answer.seeds, alive[0]: b"short"}), WrongShape),
        (replace(answer, seeds={**answer.seeds, alive[0]: b"\xff" * 33}), WrongShape),  # above the prime
        (replace(answer, masks={"mole": answer.masks[gone]}), WrongShape),
    ]
    for one, error in wrong:
        with pytest.raises(error):
            played.group.reveal(one)
    assert not played.group.answered
    played.group.reveal(answer)
    played.group.reveal(answer)
    with pytest.raises(Duplicate):
        played.group.reveal(replace(answer, seeds=answer.seeds | {alive[0]: bytes(33)}))
    assert played.group.answered == ("device-000",)


def test_malformed_boxes_and_vectors_are_refused() -> None:
    found = advertised(COUNT)
    group = found.group
    boxes = found.clients["device-000"].share(group.roster, NOW_S)
    for wrong in (boxes[1:], (*boxes, boxes[0]), (replace(boxes[0], sealed=b"x"), *boxes[1:]),
                  (Box("device-000", "mole", boxes[0].sealed), *boxes[1:])):  # fmt: skip
        with pytest.raises(WrongShape):
            group.share("device-000", wrong)
    with pytest.raises(WrongShape):
        group.share("mole", boxes)
    shared(found, silent=["device-008"])
    with pytest.raises(Stale):
        group.share("device-008", found.clients["device-008"].share(group.roster, NOW_S))
    size = found.terms.payload_bytes
    with pytest.raises(Stale, match="no shares"):
        group.upload("device-008", b"d" * 32, size)
    with pytest.raises(WrongShape):
        group.upload("device-000", b"d" * 32, size + 1)
    group.upload("device-000", b"d" * 32, size)
    group.upload("device-000", b"d" * 32, size)
    with pytest.raises(Duplicate):
        group.upload("device-000", b"e" * 32, size)
    with pytest.raises(Stale):
        group.reveal(Reveal("device-000", b"", {}, {}))


@pytest.mark.parametrize("liars", [1, 2])
def test_wrong_shares_are_found_out_and_done_without(liars: int) -> None:
    """16 members, threshold 11, 15 answers for each secret: two liars cannot spoil the sum, and are named."""
    found = advertised(16)
    shared(found)
    uploaded(found, silent=["device-009"])
    survivors = found.group.freeze(SERVER.sign)
    for number, who in enumerate(survivors.clients):
        answer = found.clients[who].reveal(survivors)
        if number < liars:
            off = shamir.encode(12345)
            answer = replace(answer, seeds={one: off for one in answer.seeds}, masks={one: off for one in answer.masks})
        found.group.reveal(answer)
    assert np.array_equal(settled(found).residues, expected(found))
    assert found.group.suspects == survivors.clients[:liars]


def test_a_secret_that_was_never_shared_loses_the_group_and_names_its_owner() -> None:
    found = advertised(COUNT)
    liar = found.clients["device-002"]
    liar._state.self_seed = b"s" * 32  # shares of another seed than it committed to
    shared(found)
    uploaded(found)
    revealed(found)
    with pytest.raises(GroupLost, match="'device-002'"):
        settled(found)
    assert found.group.suspects == ("device-002",)


def test_a_sum_that_breaks_the_law_is_void(played: Played) -> None:
    """Adding 10 to every entry: nobody can see who, everybody can see that."""
    found = advertised(COUNT, bits=16, largest=3)
    shared(found)
    liar = found.clients["device-001"]
    liar._state.terms = replace(found.terms, largest=100)  # its own check is off
    found.vectors["device-001"] = found.vectors["device-001"] + 50
    uploaded(found)
    revealed(found)
    with pytest.raises(OutsideLaw, match="most that it can be"):
        settled(found)

    def never_five(blocks: object, survivors: int) -> None:
        laws.total_is(5, 6)

    revealed(played)
    with pytest.raises(OutsideLaw, match="add up to 5"):
        settled(played, never_five)
    assert np.array_equal(settled(played).residues, expected(played))


@pytest.mark.parametrize(
    ("vector", "error"),
    [
        (np.full(37, 4), OutsideLaw),
        (np.full(37, -1), OutsideLaw),
        (np.zeros(36, int), WrongShape),
        (np.zeros(38, int), WrongShape),
        (np.zeros(37), WrongShape),
    ],
)
def test_a_device_masks_lawful_vectors_alone(vector: Array, error: type[FlError]) -> None:
    found = advertised(COUNT)
    shared(found)
    one = found.clients["device-000"]
    with pytest.raises(error):
        masked(one, vector)
    assert one.phase == "delivered"
    masked(one, found.vectors["device-000"])


# Killed.


def again(one: MaskClient, journal: Memory) -> MaskClient:
    return MaskClient.restore(one.dump(), roots=roots(), server_key=SERVER_KEY, journal=journal)


def trace(killed: str) -> tuple[list[object], Array]:
    """All that travels in one sum, and the sum. killed: before which step every machine is replaced by its stored self."""
    seen: list[object] = []
    how, who = terms(names(COUNT)), names(COUNT)
    journals = {name: Memory() for name in who}
    clients = {name: client(name, how, journals[name]) for name in who}
    gathering = Gathering(how, VALUE, [Entrant(name) for name in who])

    def kill(step: str) -> None:
        if killed in (step, "all"):
            clients.update({name: again(one, journals[name]) for name, one in clients.items()})

    for number, (name, one) in enumerate(clients.items()):
        seen.append(gathering.add(one.advert, roots(), NOW_S))
        if killed == "3 advert" and number == 4:
            gathering = Gathering.restore(gathering.dump())
            assert gathering.add(one.advert, roots(), NOW_S) == one.advert.digest, name
    kill("client share")
    (roster,) = gathering.close()
    group = MaskGroup(roster)
    for number, name in enumerate(who):
        boxes = clients[name].share(roster, NOW_S)
        group.share(name, boxes)
        seen.append(boxes)
        if killed == "4 sealed share stored" and number == 4:
            group = MaskGroup.restore(group.dump())
            group.share(name, boxes)
        kill("client shared")
    for name in who:
        assert clients[name].share(roster, NOW_S) in seen
    group.close_shares()
    uploads = {}
    for name in who:
        clients[name].receive(group.boxes_for(name))
    kill("client delivered")
    vectors = np.random.default_rng(1).integers(0, 4, (COUNT, how.entries))
    for number, name in enumerate(who[:-1]):
        if killed == "client half masked":
            half = again(clients[name], journals[name])
            next(half.mask([vectors[number]]))
        before = clients[name].dump()
        uploads[name] = masked(clients[name], vectors[number])
        if killed == "client stored its vector":
            digest = clients[name].upload_digest
            clients[name] = MaskClient.restore(before, roots=roots(), server_key=SERVER_KEY, journal=journals[name])
            clients[name].adopt(digest)
        group.upload(name, clients[name].upload_digest, uploads[name].size)
        seen.append(uploads[name].data)
    kill("client masked")
    survivors = group.freeze(SERVER.sign)
    if killed == "8 frozen, nothing sent":
        group = MaskGroup.restore(group.dump())
        assert group.freeze(identity("mole").key.sign) == survivors  # stored, not made again
    seen.append(survivors)
    for number, name in enumerate(survivors.clients):
        answer = clients[name].reveal(survivors)
        group.reveal(answer)
        seen.append(answer)
        kill("client revealed")
        if killed == "9 some reveals in" and number == 4:
            group = MaskGroup.restore(group.dump())
            assert not group.answered
            for earlier in survivors.clients[: number + 1]:
                group.reveal(clients[earlier].reveal(group.freeze(SERVER.sign)))
    assert all(len(kind) == 1 for kind in kinds([one for one in seen if isinstance(one, Reveal)]).values())
    total = group.settle(uploads, lawful)
    if killed == "10 summed, in memory":
        group = MaskGroup.restore(group.dump())
        for name in survivors.clients:
            group.reveal(clients[name].reveal(survivors))
        total = group.settle(uploads, lawful)
    assert np.array_equal(total.residues, vectors[:-1].sum(axis=0))
    assert [len(book.lines) for book in journals.values()] == [1] * (COUNT - 1) + [0]
    return seen, total.residues


POINTS = (
    "3 advert", "4 sealed share stored", "8 frozen, nothing sent", "9 some reveals in", "10 summed, in memory", "client share",
    "client shared", "client delivered", "client half masked", "client stored its vector", "client masked", "client revealed",
    "all",
)  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed() -> tuple[list[object], Array]:
    return trace("never")


@pytest.mark.parametrize("point", POINTS)
def test_killed_anywhere_the_same_bytes_travel(point: str, undisturbed: tuple[list[object], Array]) -> None:
    seen, total = trace(point)
    assert seen == undisturbed[0]
    assert np.array_equal(total, undisturbed[1])


def test_another_attempt_shares_nothing_with_the_first() -> None:
    """Killed before anything was stored: a clean new attempt, with other keys, masks and boxes."""
    first, second = advertised(COUNT), advertised(COUNT, attempt=2)
    for one in (first, second):
        shared(one)
        uploaded(one)
    for who in names(COUNT):
        mine, later = first.clients[who].advert, second.clients[who].advert
        assert not {mine.mask_key, mine.seal_key, mine.seed_commitment} & {
            later.mask_key,
            later.seal_key,
            later.seed_commitment,
        }
        assert np.array_equal(first.vectors[who], second.vectors[who])
        assert first.uploads[who].data != second.uploads[who].data
    revealed(second)
    with pytest.raises(OutsideLaw):  # vectors of one attempt stay masked under the keys of another
        second.group.settle(first.uploads, lawful)


def test_nothing_is_revealed_where_the_journal_fails(played: Played) -> None:
    found, journal = played.group.freeze(SERVER.sign), played.journals["device-000"]
    journal.fail = JournalError("no space left")
    one = played.clients["device-000"]
    before = one.dump()
    with pytest.raises(JournalError):
        one.reveal(found)
    assert one.dump() == before
    journal.fail = None
    assert one.reveal(found).client == "device-000"


@pytest.mark.parametrize("load", [ClientState.load, MaskGroup.restore, Gathering.restore])
def test_damaged_states_are_told(load: Callable[[bytes], object], played: Played) -> None:
    for data in (b"", b"nonsense", played.clients["device-000"].dump()[:-5], played.group.dump()[:100]):
        with pytest.raises(JournalError) as caught:
            load(data)
        assert caught.value.__cause__ is None or b"seed" not in str(caught.value).encode()


def test_secrets_are_never_shown(played: Played) -> None:
    found = played.group.freeze(SERVER.sign)
    one = played.clients["device-000"]
    state = one._state
    secrets = [
        state.mask_private,
        state.seal_private,
        state.self_seed,
        state.share_key,
        *(part for pair in state.held.values() for part in pair),
    ]
    answer = one.reveal(found)
    played.group.reveal(answer)
    told = "".join(repr(what) for what in (one, state, answer, played.group, played.group._state))
    assert "device-000" in told
    for secret in secrets:
        assert repr(secret)[2:-1] not in told
        assert secret.hex() not in told
    stored = played.group.dump()
    assert not [secret for secret in secrets if secret in stored]
    one.forget()
    assert not [secret for secret in secrets if secret in one.dump()]


def test_a_group_without_reveals_stays_masked_on_disk(played: Played) -> None:
    """What a server stores does not hold the sum: the stored state has no reveals, whatever came in."""
    revealed(played)
    with pytest.raises(GroupLost):
        MaskGroup.restore(played.group.dump()).settle(played.uploads, lawful)


def test_boxes_open_for_their_receiver_in_their_attempt_alone() -> None:
    one, other = b"\x01" * 32, b"\x02" * 32
    mine, theirs = sealing.public_of(one), sealing.public_of(other)
    own, others = sealing.loaded(one), sealing.loaded(other)
    key = sealing.box_key(own, theirs, b"t", b"r", "a", "b")
    box = sealing.seal(key, 5, shamir.PRIME - 1)
    assert len(box) == sealing.BOX_BYTES
    assert sealing.opened(sealing.box_key(others, mine, b"t", b"r", "a", "b"), box) == (5, shamir.PRIME - 1)
    for wrong in (("t2", "r", "a", "b"), ("t", "r2", "a", "b"), ("t", "r", "b", "a"), ("t", "r", "a", "c")):
        transcript, roster, sender, receiver = wrong
        bad = sealing.box_key(others, mine, transcript.encode(), roster.encode(), sender, receiver)
        assert sealing.opened(bad, box) is None


def test_uploads_of_another_length_are_refused(played: Played) -> None:
    revealed(played)
    short = {who: Bytes(bytes(blob.data)[:-1]) for who, blob in played.uploads.items()}
    with pytest.raises(WrongShape):
        played.group.settle(short, lawful)
