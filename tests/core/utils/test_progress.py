"""Progress bars and the functions that show them."""

import io
import re
from typing import Any

import pytest

from mmx import utils


def text(buffer: io.StringIO) -> str:
    return re.sub(r"[\d.]+ task", "N task", buffer.getvalue()).replace("\r", "|")


def add(x: int, y: int = 1) -> int:
    return x + y


def test_a_bar_redraws_its_line() -> None:
    buffer = io.StringIO()
    bar = utils.ProgressBar(2, bar_width=10, file=buffer)
    assert "[          ] 0/2, elapsed: 0s, ETA:" == buffer.getvalue()
    bar.update()
    bar.update()
    assert (
        "|[>>>>>     ] 1/2, N task/s, elapsed: 0s, ETA:     0s"
        "|[>>>>>>>>>>] 2/2, N task/s, elapsed: 0s, ETA:     0s"
    ) == text(buffer)[len("[          ] 0/2, elapsed: 0s, ETA:") :]


def test_a_bar_without_a_number_counts() -> None:
    buffer = io.StringIO()
    bar = utils.ProgressBar(file=buffer)
    bar.update(3)
    assert "completed: 0, elapsed: 0scompleted: 3, elapsed: 0s, N tasks/s" == text(buffer)


def test_a_bar_may_start_later() -> None:
    buffer = io.StringIO()
    bar = utils.ProgressBar(10, start=False, file=buffer)
    assert "" == buffer.getvalue()
    bar.start()
    assert "0/10" in buffer.getvalue()


def test_only_work_done_counts() -> None:
    bar = utils.ProgressBar(1, file=io.StringIO())
    for number in (0, -1):
        with pytest.raises(ValueError, match=f"num_tasks must be positive, got {number}"):
            bar.update(number)


def test_calls_are_tracked() -> None:
    buffer = io.StringIO()
    assert [2, 3] == utils.track_progress(add, [1, 2], file=buffer)
    assert [11, 12] == utils.track_progress(add, (iter([1, 2]), 2), file=buffer, y=10)
    assert [1, 2] == list(utils.track_iter_progress([1, 2], file=buffer))
    assert [1, 2] == list(utils.track_iter_progress((iter([1, 2]), 2), file=buffer))
    assert 4 == text(buffer).count("2/2")


@pytest.mark.parametrize("tasks", [1, (1, 2), ([1], "a")])
def test_tasks_are_countable(tasks: Any) -> None:
    with pytest.raises(TypeError, match='"tasks" must be'):
        utils.track_progress(add, tasks, file=io.StringIO())


@pytest.mark.parametrize("options", [{}, {"skip_first": True}, {"keep_order": False}])
def test_calls_in_processes_are_tracked(options: dict[str, Any]) -> None:
    buffer = io.StringIO()
    results = utils.track_parallel_progress(add, [1, 2, 3, 4], 2, file=buffer, **options)
    assert [2, 3, 4, 5] == sorted(results)
    assert buffer.getvalue().endswith("\n")


def test_arguments_of_an_initializer_are_a_tuple() -> None:
    with pytest.raises(TypeError, match='"initargs" must be a tuple'):
        utils.track_parallel_progress(
            add,
            [1],
            1,
            initializer=add,
            initargs=[1],  # type: ignore[arg-type]  # on purpose
            file=io.StringIO(),
        )


@pytest.mark.parametrize("nproc", [1, 2])
def test_calls_are_tracked_on_a_rich_terminal(
    nproc: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [2, 3] == utils.track_progress_rich(add, [(1,), (2,)], nproc=nproc)
    assert [2, 3] == utils.track_progress_rich(add, [1, 2], nproc=nproc)
    assert [5] == utils.track_progress_rich(add, [{"x": 2, "y": 3}], nproc=nproc)
    assert [{}, {}] == utils.track_progress_rich(dict, task_num=2, nproc=nproc)
    assert [2, 3] == utils.track_progress_rich(add, iter([1, 2]), task_num=2, nproc=nproc)
    assert "Processing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        ((1, [1]), {}, TypeError, "func must be a callable object"),
        ((add, 1), {}, TypeError, "tasks must be an iterable object, but got <class 'int'>"),
        ((add, []), {}, ValueError, "If tasks is an empty iterable, task_num must be set"),
        ((add, [1]), {"task_num": 2}, ValueError, "task_num does not match the length of tasks"),
        ((add, [1]), {"nproc": 0}, ValueError, "nproc must be a positive number"),
    ],
)
def test_wrong_arguments_are_refused(args: Any, kwargs: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        utils.track_progress_rich(*args, **kwargs)
