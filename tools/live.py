"""Run code for the pages of the local server: one Jupyter kernel that has loaded torch, one run at a time.

One kernel, not one for each page: one reader runs one snippet at a time, and every further process with torch costs hundreds of megabytes.
Each run starts without names and from the same seed, so it prints what the recording shows, whatever ran before it.
"""

import re
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tools.kernel import Kernel, KernelDiedError, leave

GRACE = 2.0
"""Seconds that interrupted code gets to come to its end before the kernel is killed."""

BEAT = 1.0
"""Seconds between two signs of life. A page that has gone is noticed when one cannot be sent."""

MOST_TEXT = 100_000
"""Characters of text that a run may show."""

MOST_FIGURES = 8_000_000
"""Characters of encoded figures that a run may show."""

PREPARE = "get_ipython().reset(new_session=False); __import__('torch').manual_seed(0)"
"""Before each run: what a recording starts from."""

ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\))")

Event = dict[str, Any]


class _Run:
    """A run that a page waits for."""

    def __init__(self) -> None:
        self.ending = ""
        """Why it must end: `stopped`, `reset`, or nothing."""


class Live:
    """The kernel and those who wait for it.

    Args:
        root: the folder that code runs in, and imports from.
        limit: seconds that a run may take.
    """

    def __init__(self, root: Path, limit: float) -> None:
        self.limit = limit
        self._root = root
        self._turn = threading.Lock()
        self._kernel: Kernel | None = None
        self._loaded = False
        self._stale = False
        self._closed = False
        self._runs: dict[str, _Run] = {}
        self._running: _Run | None = None

    def warm(self) -> None:
        """Start the kernel in the background, unless it runs."""
        threading.Thread(target=self._warm, daemon=True).start()

    def _warm(self) -> None:
        with self._turn, suppress(RuntimeError, KernelDiedError):  # the next run says what is wrong
            self._ready()
        leave()

    @property
    def state(self) -> str:
        """`starting`, `ready` or `busy`."""
        if self._running:
            return "busy"
        return "ready" if self._loaded and not self._stale else "starting"

    @property
    def pid(self) -> int | None:
        """The kernel's process, if there is one."""
        return self._kernel.pid if self._kernel else None

    def run(self, name: str, code: str) -> Generator[Event]:
        """Run code; what happens, as it happens.

        Events have a `kind`: `waiting` for the kernel or another run; `started`; `text` (`stream`, `text`); `figure` (`png`, base64);
        `error` (`text`, the traceback); `notice` (`text`); `beat`, a sign of life; and, last of all, `done` (`outcome`: `finished`,
        `failed`, `stopped`, `limit`, `reset` or `died`). From `text` on they have the `seconds` since the start.
        Whoever closes the generator before its end ends the run.

        Args:
            name: what `stop` will call it.
            code: Python.
        """
        run = self._runs[name] = _Run()
        try:
            while not self._turn.acquire(timeout=BEAT):
                if run.ending:
                    yield {"kind": "done", "outcome": run.ending, "seconds": 0.0}
                    return
                yield {"kind": "waiting"}
            try:
                self._running = run
                yield from self._run(run, code)
            finally:
                self._running = None
                self._turn.release()
                self.warm()  # if it died, the next run should not have to wait for torch
        finally:
            del self._runs[name]
            leave()

    def _run(self, run: _Run, code: str) -> Iterator[Event]:
        if not self._loaded or self._stale:
            yield {"kind": "waiting"}
        try:
            kernel = self._ready()
            for _ in kernel.execute(PREPARE, silent=True):
                pass
        except (RuntimeError, KernelDiedError) as problem:
            yield {"kind": "notice", "text": f"The kernel did not start: {problem}"}
            yield {"kind": "done", "outcome": run.ending or "died", "seconds": 0.0}
            return
        began = time.monotonic()
        yield {"kind": "started"}
        messages = kernel.execute(code)
        output = _Output()
        last, deadline = began, None
        outcome = "died"
        try:
            for message in messages:
                now = time.monotonic()
                seconds = round(now - began, 1)
                for event in output.events(message, quiet=bool(run.ending)) if message else ():
                    yield event | {"seconds": seconds}
                if now - last >= BEAT:
                    last = now
                    yield {"kind": "beat", "seconds": seconds}
                if not run.ending and now - began > self.limit:
                    run.ending = "limit"
                if run.ending and deadline is None:
                    deadline = now + (0.0 if run.ending == "reset" else GRACE)
                    kernel.interrupt()
                if deadline is not None and now > deadline:
                    kernel.kill()
            outcome = run.ending or ("failed" if output.failed else "finished")
        except KernelDiedError:
            outcome = run.ending or "died"
        except GeneratorExit:
            self._settle(kernel, messages)
            raise
        yield {"kind": "done", "outcome": outcome, "seconds": round(time.monotonic() - began, 2)}

    def _ready(self) -> Kernel:
        """The kernel, started anew if it must be; only for whoever has the turn.

        Raises:
            RuntimeError: it does not start.
            KernelDiedError: it died while it loaded torch.
        """
        if self._kernel and self._loaded and not self._stale and self._kernel.alive:
            return self._kernel
        if self._closed:
            raise RuntimeError("the server stops")
        self._loaded = self._stale = False
        if self._kernel:
            self._kernel.close()
        self._kernel = Kernel(self._root)
        if self._closed:  # meanwhile
            self._kernel.kill()
        self._kernel.load()
        self._loaded = True
        return self._kernel

    def _settle(self, kernel: Kernel, messages: Iterator[dict[str, Any] | None]) -> None:
        """End what nobody waits for any more."""
        kernel.interrupt()
        deadline = time.monotonic() + GRACE
        with suppress(KernelDiedError):
            for _ in messages:
                if time.monotonic() > deadline:
                    kernel.kill()

    def stop(self, name: str) -> None:
        """End a run, whether it waits or runs: as Ctrl-C does, and by force if that does not help."""
        if run := self._runs.get(name):
            run.ending = run.ending or "stopped"

    def reset(self) -> None:
        """End what runs, and start a new kernel."""
        self._stale = True
        if self._running:
            self._running.ending = "reset"
        self.warm()

    def close(self) -> None:
        """End the kernel for good."""
        self._closed = True
        if self._kernel:
            self._kernel.kill()
        # whoever has the turn sees that the kernel is dead, and leaves; if not at once, the folder goes with this process
        if self._turn.acquire(timeout=GRACE):
            if self._kernel:
                self._kernel.close()
                self._kernel = None
            self._turn.release()


class _Output:
    """Turns the messages of a run into events, up to the most that a run may show."""

    def __init__(self) -> None:
        self.failed = False
        self._text = MOST_TEXT
        self._figures = MOST_FIGURES
        self._full = False

    def events(self, message: dict[str, Any], *, quiet: bool) -> Iterator[Event]:
        """The events of a message; if `quiet`, the interruption that was asked for is not shown as an error."""
        content = message["content"]
        match message["msg_type"]:
            case "stream":
                yield from self._written({"kind": "text", "stream": content["name"], "text": content["text"]})
            case "display_data" | "execute_result":
                shown = content["data"]
                if "image/png" in shown:
                    yield from self._drawn(shown["image/png"].replace("\n", ""))
                elif "text/plain" in shown:
                    yield from self._written({"kind": "text", "stream": "stdout", "text": shown["text/plain"] + "\n"})
            case "error" if not (quiet and content["ename"] == "KeyboardInterrupt"):
                self.failed = True
                self._text = max(self._text, 10_000)  # what went wrong is said even after too much output
                yield from self._written({"kind": "error", "text": "\n".join(content["traceback"])})

    def _written(self, event: Event) -> Iterator[Event]:
        text = ESCAPE.sub("", event["text"])
        shown = text[: self._text]
        self._text -= len(shown)
        if shown:
            yield event | {"text": shown}
        if len(shown) < len(text):
            yield from self._notice(f"{MOST_TEXT:,} characters of text")

    def _drawn(self, png: str) -> Iterator[Event]:
        if len(png) <= self._figures:
            self._figures -= len(png)
            yield {"kind": "figure", "png": png}
        else:
            yield from self._notice(f"{MOST_FIGURES // 1_000_000} MB of figures")

    def _notice(self, most: str) -> Iterator[Event]:
        if not self._full:
            self._full = True
            yield {"kind": "notice", "text": f"Output is cut here: a run may show {most}. It goes on without being shown."}
