"""The clients that are connected now, each with a queue of what to tell it."""

import asyncio
from collections.abc import Callable

from edgehold.proto.v1.control_pb2 import ConnectResponse

QUEUE_LIMIT = 64


class Session:
    """One open control stream. address: host:port at which the client's peers may read it, "" for nowhere."""

    def __init__(self, client: str, address: str = "") -> None:
        self.client = client
        self.address = address
        self._queue: asyncio.Queue[ConnectResponse | None] = asyncio.Queue(QUEUE_LIMIT)

    def send(self, event: ConnectResponse) -> None:
        """Queue an event; a client that reads nothing is cut off rather than remembered without end."""
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self.end()

    def end(self, last: ConnectResponse | None = None) -> None:
        """Drop what is queued, say `last`, and close the stream."""
        while not self._queue.empty():
            self._queue.get_nowait()
        if last is not None:
            self._queue.put_nowait(last)
        self._queue.put_nowait(None)

    async def next(self) -> ConnectResponse | None:
        """The next event, or None when the stream must end."""
        return await self._queue.get()


class Sessions:
    """Sessions by client; the newest stream of a client is the one that counts."""

    def __init__(self) -> None:
        self._open: dict[str, Session] = {}
        self._listeners: list[Callable[[str, bool], None]] = []

    def on_change(self, listener: Callable[[str, bool], None]) -> None:
        """Call `listener(client, connected)` at every arrival and departure."""
        self._listeners.append(listener)

    def _tell(self, client: str, connected: bool) -> None:
        for listener in self._listeners:
            listener(client, connected)

    def open(self, client: str, address: str = "") -> Session:
        """A client connects; an older stream of it ends. address: of its listener for peers, "" for none."""
        if older := self._open.get(client):
            older.end()
        session = self._open[client] = Session(client, address)
        self._tell(client, True)
        return session

    def close(self, session: Session) -> None:
        """A stream is over."""
        if self._open.get(session.client) is session:
            del self._open[session.client]
            self._tell(session.client, False)

    def end(self, client: str) -> None:
        """Cut a client off."""
        if session := self._open.get(client):
            session.end()

    def end_all(self, last: ConnectResponse) -> None:
        """Say goodbye to everybody."""
        for session in self._open.values():
            session.end(last)

    def send(self, client: str, event: ConnectResponse) -> bool:
        """Tell a client something; False when it is not connected."""
        session = self._open.get(client)
        if session is None:
            return False
        session.send(event)
        return True

    def address(self, client: str) -> str:
        """host:port of a connected client's listener for peers; "" for none."""
        session = self._open.get(client)
        return session.address if session else ""

    def __len__(self) -> int:
        return len(self._open)

    def has(self, client: str) -> bool:
        """Whether the client has an open stream."""
        return client in self._open

    @property
    def connected(self) -> frozenset[str]:
        """Clients with an open stream."""
        return frozenset(self._open)
