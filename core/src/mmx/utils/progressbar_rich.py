"""A progress bar on a rich terminal, for tasks in one or several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from typing import Any


class _Worker:
    """Calls a function with a task that is one value, several or keyword arguments. Picklable."""

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func

    def __call__(self, task: Any) -> Any:
        if isinstance(task, dict):
            return self.func(**task)
        if isinstance(task, (list, tuple)):
            return self.func(*task)
        return self.func(task)


def track_progress_rich(
    func: Callable[..., Any],
    tasks: Iterable[Any] = (),
    task_num: int | None = None,
    nproc: int = 1,
    chunksize: int = 1,
    description: str = "Processing",
    color: str = "blue",
) -> list[Any]:
    """Call a function for tasks, showing a bar; return the results in order.

    A task that is a dict is handed over as keyword arguments, one that is a list or tuple as
    positional ones.

    Args:
        func: The function.
        tasks: Tasks; empty with ``task_num`` calls ``func()`` so many times.
        task_num: Number of tasks, if ``tasks`` does not know.
        nproc: Number of processes.
        chunksize: Tasks handed to a process at a time.
        description: Text before the bar.
        color: Colour of the bar.

    Raises:
        TypeError: ``func`` is not callable or ``tasks`` not iterable.
        ValueError: ``nproc`` is below 1, ``chunksize`` is below 1, or ``task_num`` contradicts ``tasks``.
    """
    if not callable(func):
        raise TypeError("func must be a callable object")
    if not isinstance(tasks, Iterable):
        raise TypeError(f"tasks must be an iterable object, but got {type(tasks)}")
    if isinstance(tasks, Sized):
        if len(tasks) == 0:
            if task_num is None:
                raise ValueError("If tasks is an empty iterable, task_num must be set")
            tasks = tuple(() for _ in range(task_num))
        elif task_num is not None and task_num != len(tasks):
            raise ValueError("task_num does not match the length of tasks")
        else:
            task_num = len(tasks)
    if nproc <= 0:
        raise ValueError("nproc must be a positive number")
    if chunksize <= 0:
        raise ValueError("chunksize must be a positive number")

    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        MofNCompleteColumn(),
        TaskProgressColumn(show_speed=True),
    ]
    worker = _Worker(func)
    results = []
    with Progress(*columns) as progress:
        bar = progress.add_task(f"[{color}]{description}", total=task_num)
        if nproc == 1:
            for task in tasks:
                results.append(worker(task))
                progress.advance(bar)
        else:
            from multiprocessing import Pool

            with Pool(nproc) as pool:
                for result in pool.imap(worker, tasks, chunksize):
                    results.append(result)
                    progress.advance(bar)
    return results
