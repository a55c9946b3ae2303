"""Who belongs to the federation, read at the start of every call; the journal holds it, memory answers."""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast, get_args

from edgehold.core.errors import ConfigError, IdentityError, NotFound
from edgehold.core.identity import BACKDATE_S, Identity
from edgehold.server.store.journal import Journal

MemberState = Literal["active", "suspended", "revoked"]


@dataclass(slots=True)
class Member:
    """One client. allowed_tasks: empty means any. issued_from: certificates issued earlier are refused (s since 1970)."""

    id: str
    state: MemberState
    signing_fingerprint: bytes
    signing_key: bytes
    issued_from: float
    allowed_tasks: tuple[str, ...]
    expires: float
    admitted: int
    rejected: int

    def may_run(self, task: str) -> bool:
        """Whether the client may be given this task."""
        return not self.allowed_tasks or task in self.allowed_tasks

    def may_take_part(self, task: str) -> bool:
        """Whether the client may be asked to do this task now."""
        return self.state == "active" and self.may_run(task)


class Roster:
    """The members, loaded once and written through."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._members: dict[str, Member] = {}
        for row in journal.read(
            "SELECT id, state, signing_fingerprint, signing_key, issued_from, allowed_tasks, expires, admitted, rejected"
            " FROM clients ORDER BY id"
        ):
            member = Member(row[0], row[1], row[2] or b"", row[3] or b"", row[4], tuple(json.loads(row[5])), *row[6:])
            self._members[member.id] = member

    def __iter__(self) -> Iterator[Member]:
        return iter(sorted(self._members.values(), key=lambda member: member.id))

    def get(self, client: str) -> Member:
        """The member with this id; `NotFound` when there is none."""
        try:
            return self._members[client]
        except KeyError:
            raise NotFound(f"no client {client!r} in the roster") from None

    def is_active(self, client: str) -> bool:
        """Whether there is such a member, and it may take part now."""
        member = self._members.get(client)
        return member is not None and member.state == "active"

    def may_run(self, client: str, task: str) -> bool:
        """Whether there is such a member, and it may be asked to do this task now."""
        member = self._members.get(client)
        return member is not None and member.may_take_part(task)

    def require(self, identity: Identity) -> Member:
        """The active member a certificate belongs to, else `IdentityError`."""
        member = self._members.get(identity.name)
        if member is None:
            raise IdentityError(f"client {identity.name!r} is not in the roster; ask the operator for a token")
        if member.state != "active":
            raise IdentityError(f"client {identity.name!r} is {member.state}")
        if identity.issued_s + BACKDATE_S < member.issued_from:
            raise IdentityError(f"client {identity.name!r}: this certificate was replaced; enrol again with a new token")
        if member.signing_fingerprint and member.signing_fingerprint != identity.signing_fingerprint:
            raise IdentityError(f"client {identity.name!r}: the certificate names another signing key than the roster")
        return member

    async def add(self, client: str, allowed_tasks: tuple[str, ...]) -> Member:
        """Add a client, or let a known one enrol afresh: its earlier certificates and signing key stop counting."""
        member = Member(client, "active", b"", b"", time.time() if client in self._members else 0.0, allowed_tasks, 0, 0, 0)

        def change(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT INTO clients (id, state, issued_from, allowed_tasks) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE"
                " SET state=excluded.state, issued_from=excluded.issued_from, allowed_tasks=excluded.allowed_tasks,"
                " signing_fingerprint=NULL, signing_key=NULL, expires=0",
                (client, "active", member.issued_from, json.dumps(allowed_tasks)),
            )
            self._journal.append_audit(db, "client_added", client, tasks=list(allowed_tasks))

        await self._journal.write(change)
        self._members[client] = member
        return member

    async def set_state(self, client: str, state: str) -> None:
        """Activate, suspend or revoke; a revoked client can only come back with a new token."""
        member = self.get(client)
        if state not in get_args(MemberState):
            raise ConfigError(f"state {state!r}; allowed: {', '.join(get_args(MemberState))}", field="state")
        if member.state == "revoked" and state != "revoked":
            raise ConfigError(f"client {client!r} is revoked; mint a new token with `fl-server token {client}`", field="state")
        # Memory first: from here on no call of this client is admitted, even while the line is being written.
        member.state = cast(MemberState, state)

        def change(db: sqlite3.Connection) -> None:
            db.execute("UPDATE clients SET state=? WHERE id=?", (state, client))
            self._journal.append_audit(db, f"client_{state}", client)

        await self._journal.write(change)

    async def introduce(self, identity: Identity, signing_key: bytes) -> Member:
        """Remember the signing key a certificate vouches for; `IdentityError` when it vouches for another."""
        if hashlib.sha256(signing_key).digest() != identity.signing_fingerprint:
            raise IdentityError("the signing key sent is not the one the certificate vouches for")
        member = self.require(identity)
        if member.signing_key != signing_key or member.expires != identity.expires_s:
            fingerprint, expires = identity.signing_fingerprint, identity.expires_s
            await self._journal.write(
                lambda db: db.execute(
                    "UPDATE clients SET signing_fingerprint=?, signing_key=?, expires=? WHERE id=?",
                    (fingerprint, signing_key, expires, member.id),
                )
            )
            member.signing_fingerprint, member.signing_key, member.expires = fingerprint, signing_key, expires
        return member
