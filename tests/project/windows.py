"""Run by itself: imports every module as on Windows, then patches and restores a model there. Writes the names
of the modules.

What is missing on Windows is taken away after the libraries have been imported: they have ways of their own.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import signal
import socket
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty", "uvloop"}
NEED_MORE = ("atpatch_onnx.__main__", "atpatch_onnx.deploy.olive_pass", "atpatch_onnx.deploy.ray_app")
"""Modules that only Olive or Ray import, and one that runs when it is imported."""
NAMES: dict[Any, tuple[str, ...]] = {
    os: (
        *("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_TMPFILE", "SEEK_DATA", "SEEK_HOLE", "WNOHANG"),
        *("chown", "fchown", "fork", "geteuid", "getgid", "getloadavg", "getpgid", "getpriority", "getuid", "killpg"),
        *("lchown", "mkfifo", "nice", "pread", "pwrite", "sched_getaffinity", "sendfile", "setpriority", "setsid"),
        *("statvfs", "sysconf", "uname"),
    ),
    signal: ("SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGUSR1", "SIGUSR2", "alarm"),
    socket: ("AF_UNIX", "SO_REUSEPORT"),
}


class Missing(MetaPathFinder):
    """Modules that are not there."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname in MODULES:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def import_all() -> list[str]:
    names = []
    for package in ("rewriters", "atpatch_onnx"):
        folder = importlib.import_module(package).__path__
        names += [found.name for found in pkgutil.walk_packages(folder, package + ".")]
    names = [name for name in names if name not in NEED_MORE]
    for name in names:
        importlib.import_module(name)
    return names


def become_windows() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] in {"rewriters", "atpatch_onnx", *MODULES}]:
        del sys.modules[name]
    sys.meta_path.insert(0, Missing())
    sys.platform = "win32"
    for owner, names in NAMES.items():
        for name in names:
            if hasattr(owner, name):
                delattr(owner, name)


def main(model: Path, hotfix: Path, folder: Path) -> None:
    import_all()
    become_windows()
    sys.stdout.write("\n".join(import_all()))
    from atpatch_onnx import patch_model, unpatch_model

    for _ in range(2):  # the second time in place of a file
        patch_model(model, folder / "patched.onnx", hotfix=hotfix)
    unpatch_model(folder / "patched.onnx", folder / "original.onnx")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
