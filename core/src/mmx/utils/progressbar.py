"""A progress bar of plain text, for files and small terminals alike."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from multiprocessing import Pool
from shutil import get_terminal_size
from typing import Any, TextIO

from mmx.utils.errors import InvalidTypeError, InvalidValueError
from mmx.utils.timer import Timer


class ProgressBar:
    """A progress bar that redraws one line.

    Args:
        task_num: Number of tasks; 0 is unknown, then only counts are shown.
        bar_width: Greatest width of the bar in characters.
        start: Start at once.
        file: Where to write; None is standard output as it is at the call.
    """

    def __init__(
        self,
        task_num: int = 0,
        bar_width: int = 50,
        start: bool = True,
        file: TextIO | None = sys.stdout,
    ) -> None:
        self.task_num = task_num
        self.bar_width = bar_width
        self.completed = 0
        self.file: TextIO = sys.stdout if file is None or file is sys.__stdout__ else file
        if start:
            self.start()

    @property
    def terminal_width(self) -> int:
        """Columns of the terminal."""
        return get_terminal_size()[0]

    def start(self) -> None:
        """Show the empty bar and start the clock."""
        if self.task_num > 0:
            self.file.write(f"[{' ' * self.bar_width}] 0/{self.task_num}, elapsed: 0s, ETA:")
        else:
            self.file.write("completed: 0, elapsed: 0s")
        self.file.flush()
        self.timer = Timer()

    def update(self, num_tasks: int = 1) -> None:
        """Count ``num_tasks`` more tasks as done.

        Raises:
            ValueError: ``num_tasks`` is not positive.
        """
        if num_tasks <= 0:
            raise InvalidValueError(f"num_tasks must be positive, got {num_tasks}")
        self.completed += num_tasks
        elapsed = self.timer.since_start()
        fps = self.completed / elapsed if elapsed > 0 else float("inf")
        if self.task_num > 0:
            share = self.completed / float(self.task_num)
            eta = int(elapsed * (1 - share) / share + 0.5)
            message = (
                f"\r[{{}}] {self.completed}/{self.task_num}, {fps:.1f} task/s, "
                f"elapsed: {int(elapsed + 0.5)}s, ETA: {eta:5}s"
            )
            width = min(
                self.bar_width,
                int(self.terminal_width - len(message)) + 2,
                int(self.terminal_width * 0.6),
            )
            width = max(2, width)
            done = int(width * share)
            self.file.write(message.format(">" * done + " " * (width - done)))
        else:
            self.file.write(
                f"completed: {self.completed}, elapsed: {int(elapsed + 0.5)}s, {fps:.1f} tasks/s"
            )
        self.file.flush()


def _split_tasks(tasks: Any) -> tuple[Iterable[Any], int]:
    """Return tasks and their number, from a sized iterable or a pair ``(iterable, number)``.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(tasks, tuple):
        if len(tasks) != 2 or not isinstance(tasks[0], Iterable) or not isinstance(tasks[1], int):
            raise InvalidTypeError('"tasks" must be an iterable object or a (iterator, int) tuple')
        return tasks[0], tasks[1]
    if isinstance(tasks, Iterable) and isinstance(tasks, Sized):
        return tasks, len(tasks)
    raise InvalidTypeError(
        f'"tasks" must be a tuple object or a sequence object, but got {type(tasks)}'
    )


def track_progress(
    func: Callable[..., Any],
    tasks: Any,
    bar_width: int = 50,
    file: TextIO | None = sys.stdout,
    **kwargs: Any,
) -> list[Any]:
    """Call a function for each task in turn, showing a bar; return the results.

    Args:
        func: Called with one task.
        tasks: Sequence, or a pair of an iterator and its length.
        bar_width: As for :class:`ProgressBar`.
        file: As for :class:`ProgressBar`.
        **kwargs: Handed to ``func``.
    """
    items, number = _split_tasks(tasks)
    bar = ProgressBar(number, bar_width, file=file)
    results = []
    for task in items:
        results.append(func(task, **kwargs))
        bar.update()
    bar.file.write("\n")
    return results


def init_pool(
    process_num: int,
    initializer: Callable[..., Any] | None = None,
    initargs: tuple[Any, ...] | None = None,
) -> Any:
    """Return a pool of processes.

    Raises:
        TypeError: ``initargs`` is no tuple.
    """
    if initializer is None:
        return Pool(process_num)
    if initargs is None:
        return Pool(process_num, initializer)
    if not isinstance(initargs, tuple):
        raise InvalidTypeError('"initargs" must be a tuple')
    return Pool(process_num, initializer, initargs)


def track_parallel_progress(
    func: Callable[..., Any],
    tasks: Any,
    nproc: int,
    initializer: Callable[..., Any] | None = None,
    initargs: tuple[Any, ...] | None = None,
    bar_width: int = 50,
    chunksize: int = 1,
    skip_first: bool = False,
    keep_order: bool = True,
    file: TextIO | None = sys.stdout,
) -> list[Any]:
    """Call a function for tasks in several processes, showing a bar; return the results.

    Args:
        func: Called with one task.
        tasks: Sequence, or a pair of an iterator and its length.
        nproc: Number of processes.
        initializer: Called once in each process.
        initargs: Its arguments.
        bar_width: As for :class:`ProgressBar`.
        chunksize: Tasks handed over at a time.
        skip_first: Start the clock after the first chunk of each process.
        keep_order: Return results in the order of the tasks, else as they come.
        file: As for :class:`ProgressBar`.
    """
    items, number = _split_tasks(tasks)
    warm_up = nproc * chunksize * int(skip_first)
    bar = ProgressBar(number - warm_up, bar_width, start=not skip_first, file=file)
    results = []
    with init_pool(nproc, initializer, initargs) as pool:
        iterator = (pool.imap if keep_order else pool.imap_unordered)(func, items, chunksize)
        for result in iterator:
            results.append(result)
            if skip_first:
                if len(results) < warm_up:
                    continue
                if len(results) == warm_up:
                    bar.start()
                    continue
            bar.update()
    bar.file.write("\n")
    return results


def track_iter_progress(
    tasks: Any, bar_width: int = 50, file: TextIO | None = sys.stdout
) -> Iterator[Any]:
    """Yield each task, showing a bar.

    Args:
        tasks: Sequence, or a pair of an iterator and its length.
        bar_width: As for :class:`ProgressBar`.
        file: As for :class:`ProgressBar`.
    """
    items, number = _split_tasks(tasks)
    bar = ProgressBar(number, bar_width, file=file)
    for task in items:
        yield task
        bar.update()
    bar.file.write("\n")
