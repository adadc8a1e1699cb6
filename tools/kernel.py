"""A Jupyter kernel: a Python process that runs code, says what it prints, draws and raises, and can be interrupted."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any, cast

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
from jupyter_core.utils import ensure_event_loop

PATIENCE = 120.0
"""Seconds that a kernel may take to start: torch is large, and the disk may be cold."""

PAUSE = 0.1
"""Seconds to wait for a message before looking whether there is another reason to act."""

LOAD = "import gc, torch, sklearn.datasets; torch.set_num_threads(1); gc.collect(); gc.freeze()"
"""What a new kernel does first. Frozen, or taking names away before a run would search all of torch for garbage."""


def leave() -> None:
    """Close the event loop that jupyter_client made for this thread: short threads would leave their loops' files open."""
    ensure_event_loop().close()


class KernelDiedError(Exception):
    """The kernel's process has ended."""


class _Manager(KernelManager):
    """Starts a kernel in this very environment, whatever kernels the reader has installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        options = ("--InteractiveShell.colors=nocolor", "--InteractiveShell.xmode=Plain", "--HistoryManager.enabled=False")
        command = [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}", *options]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


class Kernel:
    """A kernel process. It speaks through sockets in a folder of its own, and reads none of the reader's settings."""

    def __init__(self, root: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="atlas-", ignore_cleanup_errors=True)
        place = Path(self._folder.name)
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH")))),
            "IPYTHONDIR": str(place / "ipython"),
            "OMP_NUM_THREADS": "1",
        }
        self._manager = _Manager(transport="ipc", ip=str(place / "k"), connection_file=str(place / "kernel.json"))
        with open(os.devnull, "w") as nowhere:
            self._manager.start_kernel(cwd=str(root), env=environment, stdout=nowhere, stderr=nowhere)
        self._process: subprocess.Popen[bytes] = cast(Any, self._manager.provisioner).process
        self._client = self._manager.blocking_client()
        self._client.start_channels()

    def load(self) -> None:
        """Wait until it answers, and import torch.

        Raises:
            RuntimeError: it does not answer.
        """
        self._client.wait_for_ready(timeout=PATIENCE)
        for _ in self.execute(LOAD, silent=True):
            pass

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        """The number of its process, and of the group of those that it starts."""
        return self._process.pid

    def execute(self, code: str, *, silent: bool = False) -> Iterator[dict[str, Any] | None]:
        """What the code says, message by message as the Jupyter protocol has them; None where nothing came for a while.

        Raises:
            KernelDiedError: it ended on the way.
        """
        request = self._client.execute(code, silent=silent, store_history=False, allow_stdin=False)
        while True:
            try:
                message = self._client.get_iopub_msg(timeout=PAUSE)
            except Empty:
                if not self.alive:
                    raise KernelDiedError from None
                yield None
                continue
            if message["parent_header"].get("msg_id") != request:
                continue
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
            yield message
        with suppress(Empty):  # unread replies would pile up
            self._client.get_shell_msg(timeout=1)

    def interrupt(self) -> None:
        """What Ctrl-C does, to it and to whatever it started."""
        self._send(signal.SIGINT)

    def kill(self) -> None:
        """End it and whatever it started, at once. From any thread."""
        self._send(signal.SIGKILL)

    def _send(self, kind: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, kind)

    def close(self) -> None:
        """End it, and remove its folder."""
        self.kill()
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)
        self._folder.cleanup()
