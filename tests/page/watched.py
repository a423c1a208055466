"""Run `pqm` as its command line does, and write down every address beyond this machine that its process asks for.

`python tests/page/watched.py LOG ARGUMENT…`: a line in LOG for each name that is looked up and each socket that is
connected, unless it is a loopback address or a local socket.
"""

import ipaddress
import os
import sys
from typing import Any

from pqm_plugin.commands.__main__ import main


def is_here(host: Any) -> bool:
    """Whether a host, as Python's socket functions take it, is this machine."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def watch(log: int) -> None:
    """Write to the open file `log` from now on; an audit hook cannot be taken away again."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        host = None
        if event in ("socket.getaddrinfo", "socket.gethostbyname"):
            host = arguments[0]
        elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
            host = arguments[1][0]
        if not is_here(host):
            os.write(log, f"{event} {host}\n".encode())

    sys.addaudithook(hook)


if __name__ == "__main__":
    watch(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    sys.exit(main(sys.argv[2:]))
