"""What the time of a training run went to: the part in which it trained, and the rest by name.

lost = Goodput()
with lost.to("restore"):
    state = restore(directory, like).state
with Progress(steps, log="metrics.jsonl", also=lambda rate: lost.values()) as report:
    train(..., feed=lost.feed(feed), save=lost.save(save), stop=lost.stop(stop), report=report)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jaxdiff.learning.training import DeviceFeed, Save

LOSSES = ("start", "restore", "compile", "feed", "save")


class Goodput:
    """Seconds of a process, since began, that `train` did not step in.

    began is by the same clock, and when this is made where it is not given.

    start     before this was made: imports, data
    restore   what was done under ``to("restore")``
    compile   until the first dispatch had begun, without the wait for its rows
    feed      that the loop waited for rows; of these the device still has up to one dispatch to do
    save      in save, with all that it does
    """

    def __init__(self, *, began: float | None = None, clock: Callable[[], float] = time.monotonic):
        now = clock()
        self._clock, self._began = clock, now if began is None else began
        self._lost: dict[str, float] = dict.fromkeys(LOSSES, 0.0) | {"start": now - self._began}
        self._arrived = False
        self._waiting: float | None = None
        self._compiling: float | None = None
        self._first: int | None = None

    @contextmanager
    def to(self, name: str) -> Iterator[None]:
        """Count what is done here under a name, one of LOSSES."""
        began = self._clock()
        try:
            yield
        finally:
            self._lost[name] += self._clock() - began

    def feed(self, feed: DeviceFeed) -> DeviceFeed:
        """The same feed, whose rows' coming is noted."""

        def fed(first: int, last: int) -> Any:
            self._arrived = False
            try:
                return feed(first, last)
            finally:
                self._arrived = True
                self._waited()
                if self._compiling is None:
                    self._compiling = self._clock()

        return fed

    def save(self, save: Save) -> Save:
        """The same save, timed."""

        def saved(state: Any, means: dict[str, float]) -> None:
            self._waited()
            with self.to("save"):
                save(state, means)
            self._wait()

        return saved

    def stop(self, stop: Callable[[int], bool]) -> Callable[[int], bool]:
        """The same question, by which the loop's turns are known; to be given to `train`."""

        def asked(step: int) -> bool:
            self._first = step if self._first is None else self._first
            if step > self._first and self._compiling:
                self._lost["compile"] += self._clock() - self._compiling
                self._compiling = 0.0
            answer = stop(step)
            self._wait()
            return answer

        return asked

    def values(self) -> dict[str, float]:
        """goodput, the part of all seconds that no loss has, and each loss, ``restore_seconds`` and so on."""
        total = max(self._clock() - self._began, 1e-9)
        seconds = {f"{name}_seconds": lost for name, lost in self._lost.items()}
        return {"goodput": 1 - sum(self._lost.values()) / total, **seconds}

    def _wait(self) -> None:
        if not self._arrived and self._waiting is None:
            self._waiting = self._clock()

    def _waited(self) -> None:
        if self._waiting is not None:
            self._lost["feed"] += self._clock() - self._waiting
            self._waiting = None
