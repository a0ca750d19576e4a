"""Ports to listen on, of the page in the browser and of the server."""

import errno
import socket


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ValueError: the port is in use, or the host is no address of this machine.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(f"--host {host} is no address ({error.strerror}); give 127.0.0.1, 0.0.0.0 or one of this "
                         "machine's") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(256)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {port} of {host} is in use; give another one, such as --port {port % 65535 + 1}") from None
        raise ValueError(f"cannot listen on {host}, port {port}: {error.strerror}") from None
    return listener
