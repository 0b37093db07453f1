"""A listening unix socket that only its owner may open.

Whoever can connect acts as the service account (or reads its metrics), so the file's mode is 0600 from its first moment:
bound under a umask, not changed afterwards. A file that a dead process left behind is replaced; one that still answers,
and anything that is no socket, is left alone, and binding fails.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path


def private_unix_socket(path: Path) -> socket.socket:
    """Returns a bound, not yet listening socket at the path, mode 0600. Raises OSError if it cannot be had."""
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # the process has one umask: called at start, from one thread
    try:
        listener.bind(os.fspath(path))
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def _remove_stale(path: Path) -> None:
    try:
        found = path.lstat()
        if not stat.S_ISSOCK(found.st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog answers EAGAIN: somebody listens
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                if os.path.samestat(path.lstat(), found):  # and not one that somebody has made meanwhile
                    path.unlink(missing_ok=True)
        except OSError:
            return
