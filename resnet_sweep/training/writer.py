"""What a training has to write, beside its steps."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Writer:
    """Writes for a training, one thing after another.

    A device of its own goes on with the training meanwhile, so that it is done in a thread there.
    A CPU that writes doesn't train, in whatever thread.

    Args:
        aside: whether to write in a thread; what is written must then be left alone.
    """

    def __init__(self, aside: bool) -> None:
        self.aside = aside
        self._thread = ThreadPoolExecutor(1, "writer") if aside else None
        self._unfinished: Future[None] | None = None

    def __call__(self, write: Callable[[], None]) -> None:
        """Write, as soon as what came before is written; raises what that raised."""
        self.wait()
        if self._thread is None:
            write()
        else:
            self._unfinished = self._thread.submit(write)

    def wait(self) -> None:
        """Wait until all is written; raises what that raised."""
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            unfinished.result()
