"""The lock of a folder that one process at a time may write to."""

import errno
import fcntl
import logging
import os
from functools import cache
from pathlib import Path

from tokensel.errors import TokenselError

_log = logging.getLogger(__name__)
_LOCKED = (errno.EACCES, errno.EAGAIN)
# How lockf fails on a file system that has no locks, such as NFS without its lock daemon.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


def take_lock(folder: Path) -> int:
    """Makes the folder and locks its file .lock. Returns the open file: closing it releases the lock.

    On a file system without locks, a warning takes the lock's place, once per process. Raises TokenselError, naming the
    folder, if another process holds the lock or the folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise TokenselError(f"{folder}: is not writable ({error.strerror}); choose another folder") from error
    try:
        # lockf, not flock: forked workers must not keep the lock of a killed parent alive.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            warn_of_no_locks()
            return lock
        os.close(lock)
        if error.errno in _LOCKED:
            raise TokenselError(f"{folder}: another process is writing there; wait for it or stop it") from error
        raise TokenselError(f"{folder}: cannot be locked ({error.strerror}); choose another folder") from error
    return lock


@cache
def warn_of_no_locks() -> None:
    """Warns, at the first call only."""
    _log.warning("this file system has no locks: do not let two commands write to one folder at the same time")
