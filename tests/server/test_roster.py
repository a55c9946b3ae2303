"""Who belongs: memory and journal say the same, and a refusal takes effect at once."""

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgehold.core.errors import ConfigError, IdentityError, NotFound
from edgehold.core.identity import BACKDATE_S, Identity
from edgehold.server.identity.roster import Member, Roster
from edgehold.server.store.journal import Journal

KEY = bytes(range(32))
IDENTITY = Identity("lab", "client", "dev-1", hashlib.sha256(KEY).digest(), 1000.0, 2000.0)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    found = Journal(tmp_path)
    yield found
    found.close()


def same_after_restart(journal: Journal, roster: Roster) -> None:
    assert list(Roster(journal)) == list(roster)


def test_add_introduce_and_remember(journal: Journal) -> None:
    roster = Roster(journal)
    with pytest.raises(NotFound):
        roster.get("dev-1")
    with pytest.raises(IdentityError, match="not in the roster"):
        roster.require(IDENTITY)
    asyncio.run(roster.add("dev-1", ("digits",)))
    asyncio.run(roster.add("dev-0", ()))
    assert [member.id for member in roster] == ["dev-0", "dev-1"]
    member = roster.require(IDENTITY)
    assert (member.may_run("digits"), member.may_run("other"), roster.get("dev-0").may_run("other")) == (True, False, True)
    asyncio.run(roster.introduce(IDENTITY, KEY))
    assert (member.signing_key, member.expires) == (KEY, 2000.0)
    same_after_restart(journal, roster)
    assert journal.verify_audit() == 2


def test_a_signing_key_that_the_certificate_does_not_vouch_for(journal: Journal) -> None:
    roster = Roster(journal)
    asyncio.run(roster.add("dev-1", ()))
    with pytest.raises(IdentityError, match="vouches for"):
        asyncio.run(roster.introduce(IDENTITY, bytes(32)))
    asyncio.run(roster.introduce(IDENTITY, KEY))
    other = replace(IDENTITY, signing_fingerprint=hashlib.sha256(bytes(32)).digest())
    with pytest.raises(IdentityError, match="another signing key"):
        roster.require(other)
    with pytest.raises(IdentityError, match="another signing key"):
        asyncio.run(roster.introduce(other, bytes(32)))


@pytest.mark.parametrize("state", ["suspended", "revoked"])
def test_a_member_that_is_not_active_is_refused(journal: Journal, state: str) -> None:
    roster = Roster(journal)
    asyncio.run(roster.add("dev-1", ()))
    asyncio.run(roster.set_state("dev-1", state))
    with pytest.raises(IdentityError, match=state):
        roster.require(IDENTITY)
    with pytest.raises(IdentityError, match=state):
        Roster(journal).require(IDENTITY)


def test_a_refusal_does_not_wait_for_the_disk(journal: Journal) -> None:
    roster = Roster(journal)

    async def main() -> None:
        await roster.add("dev-1", ())
        change = asyncio.ensure_future(roster.set_state("dev-1", "suspended"))
        await asyncio.sleep(0)
        with pytest.raises(IdentityError):
            roster.require(IDENTITY)
        await change
        await roster.set_state("dev-1", "active")
        roster.require(IDENTITY)

    asyncio.run(main())


def test_a_revoked_client_comes_back_only_by_a_new_token_and_with_a_new_certificate(journal: Journal) -> None:
    roster = Roster(journal)
    asyncio.run(roster.add("dev-1", ()))
    asyncio.run(roster.introduce(IDENTITY, KEY))
    asyncio.run(roster.set_state("dev-1", "revoked"))
    with pytest.raises(ConfigError, match="mint a new token"):
        asyncio.run(roster.set_state("dev-1", "active"))
    with pytest.raises(ConfigError, match="allowed: active"):
        asyncio.run(roster.set_state("dev-1", "asleep"))
    member: Member = asyncio.run(roster.add("dev-1", ()))
    assert (member.state, member.signing_key, member.signing_fingerprint) == ("active", b"", b"")
    with pytest.raises(IdentityError, match="replaced"):
        roster.require(IDENTITY)
    fresh = replace(IDENTITY, issued_s=member.issued_from - BACKDATE_S, signing_fingerprint=hashlib.sha256(bytes(32)).digest())
    assert roster.require(fresh) is member
    same_after_restart(journal, roster)
