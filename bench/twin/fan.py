"""The push's peer: nothing but asyncio (on uvloop, as the web server has it) writing one frame to every socket.

Run as `python -m bench.twin.fan PORT`; frames come on stdin as native/fan.c takes them.
"""

import asyncio
import sys

import uvloop

GREETING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b'Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x13{"type":"snapshot"}'
)
open_sockets: set[asyncio.Transport] = set()


class Socket(asyncio.Protocol):
    __slots__ = ("transport",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport

    def data_received(self, data: bytes) -> None:
        if self.transport not in open_sockets:
            open_sockets.add(self.transport)
            self.transport.write(GREETING)

    def connection_lost(self, fault: Exception | None) -> None:
        open_sockets.discard(self.transport)


async def main(port: int) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_server(Socket, "127.0.0.1", port, backlog=4096)
    frames = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(frames), sys.stdin)
    while True:
        try:
            frame = await frames.readexactly(int.from_bytes(await frames.readexactly(4), "big"))
        except asyncio.IncompleteReadError:
            return
        for socket in open_sockets:
            socket.write(frame)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
