"""The socket that a station listens on."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

from anomaly_spotter.service.serving import listen


def test_answers_are_sent_at_once() -> None:
    """Without TCP_NODELAY an answer's body waits 40 ms for an acknowledgement of its header."""
    told: list[int] = []

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        told.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def ask() -> None:
        listening = listen("127.0.0.1", 0)
        async with await asyncio.start_server(answer, sock=listening):
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            await reader.read()
            writer.close()

    with ThreadPoolExecutor(1) as pool:  # the browser tests leave a running loop in the main thread
        pool.submit(asyncio.run, ask()).result()
    assert told and told[0] != 0
