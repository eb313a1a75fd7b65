"""A TCP proxy between two programs that can be disconnected."""

import contextlib
import socket
import threading


class Wire:
    """Listens on loopback and forwards all traffic to a local port, in both directions, until it is cut."""

    def __init__(self, port: int) -> None:
        self.to, self.is_cut, self.ends = port, False, set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Drop all connections and refuse new ones; data in transit is lost."""
        self.is_cut = True
        for end in list(self.ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self.is_cut = False

    def close(self) -> None:
        self.listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                caller, _ = self.listener.accept()
                threading.Thread(target=self._pass_on, args=(caller,), daemon=True).start()

    def _pass_on(self, caller: socket.socket) -> None:
        with caller:
            if self.is_cut:
                return
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.to), 5) as called:
                called.settimeout(None)
                both = {caller, called}
                self.ends |= both
                back = threading.Thread(target=self._pump, args=(called, caller), daemon=True)
                back.start()
                self._pump(caller, called)
                back.join()
                self.ends -= both

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while sent := source.recv(65536):
                target.sendall(sent)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
