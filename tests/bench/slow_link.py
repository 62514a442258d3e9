"""A link for benchmarks: a TCP proxy that delays what passes and lets each connection carry only so much."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe

PIECE = 64 * 1024


@contextmanager
def slow_link(port: int, *, delay: float, bytes_per_second: float) -> Iterator[int]:
    """A port that leads to `port`: answers come `delay` seconds later, each connection at most so fast in each direction."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(
        target=_serve, args=(theirs, port, delay, bytes_per_second), daemon=True
    )
    process.start()
    try:
        yield int(ours.recv())
    finally:
        process.terminate()
        process.join(10)


def _serve(pipe: Pipe, port: int, delay: float, rate: float) -> None:
    asyncio.run(_run(pipe, port, delay, rate))


async def _run(pipe: Pipe, port: int, delay: float, rate: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            their_reader, their_writer = await asyncio.open_connection("127.0.0.1", port, limit=4 * PIECE)
            await asyncio.gather(
                _carry(reader, their_writer, 0, rate), _carry(their_reader, writer, delay, rate)
            )
        except OSError:
            pass  # one side went away
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=4 * PIECE, backlog=256)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float, rate: float
) -> None:
    """Each burst comes later by `delay`; pieces are spaced so that the rate holds on average."""
    loop, free = asyncio.get_running_loop(), 0.0
    while piece := await reader.read(PIECE):
        now = loop.time()
        begins = (
            now + delay if now > free + 0.005 else free
        )  # after silence a request has gone there and back
        free = begins + len(piece) / rate
        if free > now + 0.002:
            await asyncio.sleep(free - now)
        writer.write(piece)
        await writer.drain()
    writer.close()
