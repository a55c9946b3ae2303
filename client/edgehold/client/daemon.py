"""The process: one event loop, one training thread, and a session for every home it was given."""

import asyncio
import contextlib
import fcntl
import functools
import logging
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO

import grpc

from edgehold.client import enrol, identity
from edgehold.client.config import ClientConfig, Home
from edgehold.client.identity import Credentials
from edgehold.client.keep import Keep
from edgehold.client.policy import Policy, PolicyFile
from edgehold.client.session import Session
from edgehold.client.worker import TrainingThread
from edgehold.core.errors import ConfigError, FlError
from edgehold.core.logs import CLIENT, event, peer_text

log = logging.getLogger("edgehold.client.daemon")

STOP_S = 4.0
"""How long a stop may take before the process just ends; nothing is lost then, because every step is on disk first."""
CLOCK_CHECK_S = 60.0
RENEWAL_RETRY_S = (30.0, 300.0)


def run(homes: Sequence[Home], configs: Sequence[ClientConfig]) -> int:
    """Serve until SIGTERM or SIGINT, then return 0. Raises the `FlError` that makes starting or going on impossible."""
    loop_done: list[FlError] = []

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            sessions = [
                stack.enter_context(_opened(home, config, training)) for home, config in zip(homes, configs, strict=True)
            ]
            await _serve(sessions, loop_done)

    training = TrainingThread()
    asyncio.run(main())
    if training.busy:
        # The thread is deep in somebody's training code: end without waiting for it.
        logging.shutdown()
        os._exit(1 if loop_done else 0)
    if loop_done:
        raise loop_done[0]
    return 0


class _Served:
    """A session and what the daemon does around it."""

    def __init__(self, home: Home, session: Session, policy: PolicyFile) -> None:
        self.home = home
        self.session = session
        self.policy = policy


@contextlib.contextmanager
def _opened(home: Home, config: ClientConfig, training: TrainingThread) -> Iterator[_Served]:
    with _locked(home):
        policy = PolicyFile(home.policy)
        credentials = identity.load(home.identity)
        admit_roots(policy.current(), credentials)
        keep = Keep(home.keep)
        try:
            keep.note(pid=os.getpid(), connected=False, error="starting", client=credentials.client_id)
            yield _Served(home, Session(home, config, credentials, policy, keep, training, open_channel), policy)
        finally:
            keep.close()


def open_channel(credentials: Credentials) -> grpc.aio.Channel:
    """A channel to the client's server."""
    return identity.channel(credentials, credentials.server_address)


def admit_roots(policy: Policy, credentials: Credentials) -> None:
    """Return if the policy allows every root the device trusts, else raise `PolicyRefused`."""
    if policy.allowed_roots:
        from cryptography import x509
        from cryptography.hazmat.primitives.hashes import SHA256

        roots = x509.load_pem_x509_certificates(credentials.roots_pem)
        policy.admit_roots([root.fingerprint(SHA256()).hex() for root in roots])


@contextlib.contextmanager
def _locked(home: Home) -> Iterator[IO[str]]:
    """The home, for this process alone: two daemons on one keep would each believe they hold the run's state."""
    if not home.folder.is_dir():
        raise ConfigError(f"{home.folder}: no such folder; `fl-client enroll` makes it")
    with home.lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"{home.folder}: another fl-client runs on this home; stop it or use another --home") from None
        yield file


def is_running(home: Home) -> bool:
    """Whether a daemon holds the home now."""
    try:
        with _locked(home):
            return False
    except ConfigError:
        return home.folder.is_dir()


async def _serve(served: Sequence[_Served], failures: list[FlError]) -> None:
    stop = asyncio.Event()
    with _signals(stop, functools.partial(_reload, served)):
        work = [asyncio.create_task(_session(one, failures)) for one in served]
        ended = asyncio.create_task(asyncio.wait(work))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([stopping, ended], return_when=asyncio.FIRST_COMPLETED)
        event(log, logging.INFO, "stopping", asked=stop.is_set())
        for task in (*work, stopping):
            task.cancel()
        _, late = await asyncio.wait([*work, stopping, ended], timeout=STOP_S)
        if late:
            logging.shutdown()
            os._exit(1 if failures else 0)


async def _session(one: _Served, failures: list[FlError]) -> None:
    renewal = asyncio.create_task(_renew_forever(one))
    try:
        await one.session.run()
    except FlError as error:
        event(log, logging.CRITICAL, "session_ended", home=str(one.home.folder), code=error.code, reason=error.message)
        failures.append(error)
    finally:
        renewal.cancel()


async def _renew_forever(one: _Served) -> None:
    """Fetch a new certificate at two thirds of the old one's life, and keep trying when that fails."""
    CLIENT.set(one.session.credentials.client_id)
    due, wait = enrol.renew_at(one.session.credentials, random.random()), RENEWAL_RETRY_S[0]
    while True:
        # In short steps: a device may sleep, or have its clock set, for longer than a certificate lives.
        while (left := due - time.time()) > 0:
            await asyncio.sleep(min(left, CLOCK_CHECK_S))
        try:
            await enrol.renew(one.session.credentials, one.home.identity)
            credentials = await asyncio.to_thread(identity.load, one.home.identity)
            admit_roots(one.policy.current(), credentials)
        except Exception as error:
            # Whatever it was: a renewal given up is a device lost, so it is tried until it works.
            code = error.code if isinstance(error, FlError) else type(error).__name__
            event(log, logging.WARNING, "renewal_failed", code=code, reason=peer_text(str(error)), wait_s=wait)
            due, wait = time.time() + random.uniform(0.5, 1.0) * wait, min(2 * wait, RENEWAL_RETRY_S[1])
            continue
        event(log, logging.INFO, "renewed", expires_s=credentials.expires_s)
        await one.session.renewed(credentials)
        due, wait = enrol.renew_at(credentials, random.random()), RENEWAL_RETRY_S[0]


def _reload(served: Sequence[_Served]) -> None:
    for one in served:
        if error := one.policy.reload():
            event(log, logging.ERROR, "policy_broken", reason=error.message)
        else:
            event(log, logging.INFO, "policy_read", home=str(one.home.folder))


@contextlib.contextmanager
def _signals(stop: asyncio.Event, reload: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGINT ask for a stop, the second one ends the process at once; SIGHUP reads the policy again."""
    loop = asyncio.get_running_loop()

    def asked() -> None:
        if stop.is_set():
            os._exit(1)
        stop.set()

    handlers = {signal.SIGTERM: asked, signal.SIGINT: asked, signal.SIGHUP: reload}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
