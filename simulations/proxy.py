"""A TCP proxy between a device and the control plane: it counts every byte, and cuts connections when told to.

It is a process of its own, so what it counts is counted outside the program: all that goes through the sockets, HTTP
heads included (not the headers of TCP and IP). A cut happens after a number of bytes drawn from a seeded generator for
each connection (``least`` until the first cut, so that there is one; at most ``times``, so that there is an end), in
the middle of whatever is under way, and looks like a pulled plug: both sides get a reset.

    python -m simulations.proxy TARGET_PORT        prints {"port": …}, then answers JSON lines on stdin:
    {"do": "counts"}    {"do": "cut", "seed": 1, "least": 20000, "most": 200000, "times": 5}    {"do": "calm"}
    {"do": "target", "port": 7701}                 ends with the end of stdin
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from typing import Any

HOST = "127.0.0.1"


class Proxy:
    """``up`` is from device to server. ``cuts`` counts the connections that were cut."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.counts = {"up": 0, "down": 0, "connections": 0, "cuts": 0}
        self._cutting: tuple[random.Random, int, int] | None = None
        self._cuts_max = 0

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "counts":
                pass
            case "cut":
                self._cutting = random.Random(request["seed"]), request["least"], request["most"]
                self._cuts_max = self.counts["cuts"] + request["times"]
            case "calm":
                self._cutting = None
            case "target":
                self.target_port = request["port"]
            case unknown:
                raise ValueError(f"unknown request {unknown!r}")
        return dict(self.counts)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts["connections"] += 1
        try:
            server_reader, server_writer = await asyncio.open_connection(HOST, self.target_port)
        except OSError:
            writer.transport.abort()  # the server is not there: the device sees a reset, as from a dead port
            return
        wire = _Wire(self, writer, server_writer)
        await asyncio.gather(
            wire.carry(reader, server_writer, "up"),
            wire.carry(server_reader, writer, "down"),
        )

    def budget(self) -> int | None:
        """How many bytes the next connection will carry before it is cut; None if it will not be."""
        if self._cutting is None or self.counts["cuts"] >= self._cuts_max:
            return None
        rng, least, most = self._cutting
        if not self.counts["cuts"]:
            return least
        return rng.randint(least, most)


class _Wire:
    """One connection, both directions, one budget."""

    def __init__(self, proxy: Proxy, *writers: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._writers = writers
        self._left = proxy.budget()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str) -> None:
        try:
            while data := await reader.read(1 << 16):
                if self._left is not None:
                    data = data[: self._left]
                    self._left -= len(data)
                self._proxy.counts[direction] += len(data)
                writer.write(data)
                await writer.drain()
                if self._left == 0:
                    self._proxy.counts["cuts"] += 1
                    self._abort()
                    return
            if writer.can_write_eof():
                writer.write_eof()
        except OSError:
            self._abort()  # one side is gone: so is the other

    def _abort(self) -> None:
        self._left = None
        for writer in self._writers:
            writer.transport.abort()


async def serve(target_port: int) -> None:
    proxy = Proxy(target_port)
    server = await asyncio.start_server(proxy.connected, HOST, 0)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    requests = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
    while line := await requests.readline():
        print(json.dumps({"result": proxy.handle(json.loads(line))}), flush=True)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
