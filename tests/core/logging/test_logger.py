"""The logger, per-rank files and print_log."""

import copy
import io
import logging
import os
import pickle
import re
import sys
import threading
import time

import pytest

from mmx.logging import MMLogger, print_log
from mmx.logging import logger as module
from mmx.logging.logger import MMFormatter, TerminalHandler

pytestmark = pytest.mark.usefixtures("isolated")


@pytest.fixture(autouse=True)
def _close_loggers():
    yield
    for logger in MMLogger._instance_dict.values():
        logger.close()


@pytest.fixture
def as_rank(monkeypatch):
    def set_rank(rank):
        monkeypatch.setattr(module, "process_rank", lambda: rank)

    return set_rank


def test_lines_have_the_documented_form(tmp_path, capsys):
    logger = MMLogger.get_instance("form", log_file=str(tmp_path / "a.log"), log_level="DEBUG")
    for level in ("debug", "info", "warning", "error"):
        getattr(logger, level)("welcome %d", 3)
    lines = capsys.readouterr().out.splitlines()
    time = r"\d\d/\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"{time} - mmx - DEBUG - welcome 3", lines[0])
    assert re.fullmatch(rf"{time} - mmx - INFO - welcome 3", lines[1])
    assert re.fullmatch(rf"{time} - mmx - WARNING - welcome 3", lines[2])
    assert re.fullmatch(
        rf"{time} - mmx - ERROR - {re.escape(__file__)} - "
        r"test_lines_have_the_documented_form - \d+ - welcome 3",
        lines[3],
    )
    in_file = (tmp_path / "a.log").read_text().splitlines()
    assert [f"{line[:4]}" for line in in_file] == [in_file[0][:4]] * 4
    assert [line.split("/", 1)[1] for line in in_file] == lines


def test_a_traceback_follows_its_line(capsys):
    logger = MMLogger.get_instance("traceback")
    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("it failed")
    out = capsys.readouterr().out
    assert "it failed\nTraceback (most recent call last):" in out
    assert out.endswith("ValueError: broken\n")


def test_instance_name_and_logger_name_differ():
    logger = MMLogger.get_instance("instance", logger_name="shown")
    assert (logger.instance_name, logger.name) == ("instance", "shown")
    assert MMLogger.get_instance("instance") is logger
    assert logging.getLogger("shown") is not logger


def test_the_root_logger_is_neither_used_nor_changed(capsys):
    class Collect(logging.Handler):
        def __init__(self):
            super().__init__()
            self.records = []

        def emit(self, record):
            self.records.append(record)

    root, other = logging.getLogger(), Collect()
    handlers, level = list(root.handlers), root.level
    root.addHandler(other)
    try:
        logger = MMLogger.get_instance("apart", log_level="DEBUG")
        logger.error("only once")
        logging.getLogger("another.library").warning("theirs")
    finally:
        root.removeHandler(other)
    assert [r.getMessage() for r in other.records] == ["theirs"]
    assert (list(root.handlers), root.level) == (handlers, level)
    assert capsys.readouterr().out.count("only once") == 1


def test_the_first_rank_writes_the_file_and_the_others_only_errors(tmp_path, as_rank, capsys):
    path = tmp_path / "logs" / "tmp.log"
    zero = MMLogger.get_instance("zero", log_file=str(path))
    as_rank(1)
    one = MMLogger.get_instance("one", log_file=str(path))
    one.info("not shown")
    one.error("shown")
    zero.info("from zero")
    assert (zero.log_file, one.log_file) == (str(path), None)
    assert [p.name for p in path.parent.iterdir()] == ["tmp.log"]
    out = capsys.readouterr().out
    assert "not shown" not in out
    assert "shown" in out
    assert "from zero" in path.read_text()


@pytest.mark.parametrize("options", [{"distributed": True}, {"log_level": "DEBUG"}])
def test_every_rank_writes_its_file_in_the_documented_tree(tmp_path, as_rank, options):
    for rank in (0, 1, 7, 63):
        as_rank(rank)
        logger = MMLogger.get_instance(f"r{rank}", log_file=str(tmp_path / "tmp.log"), **options)
        assert len(logger.handlers) == 2
        assert logger.handlers[0].level == (logging.ERROR if rank else logger.handlers[1].level)
        logger.info(f"rank {rank}")
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["tmp.log", "tmp_rank1.log", "tmp_rank63.log", "tmp_rank7.log"]
    assert "rank 63" in (tmp_path / "tmp_rank63.log").read_text()


def test_other_ranks_may_write_a_file_that_begins_with_their_first_warning(tmp_path, as_rank):
    path, options = str(tmp_path / "tmp.log"), {"other_ranks_level": "WARNING"}
    MMLogger.get_instance("zero", log_file=path, **options).info("from zero")
    as_rank(1)
    one = MMLogger.get_instance("one", log_file=path, **options)
    one.info("not written")
    assert not one.is_heard(logging.INFO)
    assert [p.name for p in tmp_path.iterdir()] == ["tmp.log"]
    one.warning("written")
    text = (tmp_path / "tmp_rank1.log").read_text()
    assert "written" in text
    assert "not written" not in text
    as_rank(2)
    two = MMLogger.get_instance("two", log_file=path, log_level="DEBUG", **options)
    assert two.is_heard(logging.DEBUG)
    two.debug("all of it")
    assert "all of it" in (tmp_path / "tmp_rank2.log").read_text()


def test_lines_of_a_block_are_written_together_behind_those_that_come_first(tmp_path):
    path = tmp_path / "a.log"
    logger = MMLogger.get_instance("together", log_file=str(path))
    with logger.together():
        logger.info_soon(lambda: "one")
        logger.info_soon(lambda: "two")
        assert not path.read_text()
    assert ["one", "two"] == [line.split(" - ")[-1] for line in path.read_text().splitlines()]
    logger.before_message(lambda: logger.info_soon(lambda: "three"))
    logger.info("four")
    logger.info("five")
    logger.before_message(lambda: logger.info("never"))
    logger.before_message(None)
    logger.info("six")
    text = [line.split(" - ")[-1] for line in path.read_text().splitlines()]
    assert text == ["one", "two", "three", "four", "five", "six"]


def test_lines_of_a_block_show_the_times_they_are_given(tmp_path):
    path = tmp_path / "a.log"
    logger = MMLogger.get_instance("times", log_file=str(path))
    with logger.together() as show_time:
        for year in (10, 20):
            show_time(year * 365.25 * 86400 + 180 * 86400)
            logger.info_soon(lambda: "a line")
        logger.info("a message")
    logger.info("afterwards")
    years = [line[:4] for line in path.read_text().splitlines()]
    assert years == ["1980", "1990", "1990", time.strftime("%Y")]


def test_modes_of_the_file(tmp_path):
    path = tmp_path / "a.log"
    path.write_text("before\n")
    MMLogger.get_instance("append", log_file=str(path), file_mode="a").info("x")
    assert path.read_text().startswith("before\n")
    MMLogger.get_instance("write", log_file=str(path)).info("x")
    assert "before" not in path.read_text()


def test_file_handlers_of_the_standard_library(tmp_path):
    path = str(tmp_path / "a.log")
    logger = MMLogger.get_instance(
        "rotating", log_file=path, file_handler_cfg=dict(type="RotatingFileHandler", maxBytes=99)
    )
    assert isinstance(logger.handlers[1], logging.handlers.RotatingFileHandler)
    assert logger.handlers[1].maxBytes == 99
    logger = MMLogger.get_instance("f", log_file=path, file_handler_cfg=dict(type="FileHandler"))
    assert type(logger.handlers[1]) is logging.FileHandler
    with pytest.raises(ValueError, match="file_handler_cfg needs a 'type'"):
        MMLogger.get_instance("no", log_file=path, file_handler_cfg=dict(maxBytes=1))
    for name in ("StreamHandler", "SocketHandler", "Nothing"):
        with pytest.raises(ValueError, match=f"does not contain {name}"):
            MMLogger.get_instance("no", log_file=path, file_handler_cfg=dict(type=name))
    with pytest.raises(TypeError, match="file_handler_cfg should be a dict, but got int"):
        MMLogger.get_instance("no", log_file=path, file_handler_cfg=3)


def test_levels(capsys):
    with pytest.raises(ValueError, match="unknown log level 'FOO'; there are CRITICAL"):
        MMLogger.get_instance("no", log_level="FOO")
    with pytest.raises(TypeError, match="an int or a str, but got None"):
        MMLogger.get_instance("no", log_level=None)
    logger = MMLogger.get_instance("levels", log_level=logging.WARNING)
    logger.info("quiet")
    logger.setLevel("ERROR")
    assert not logger.isEnabledFor(logging.WARNING)
    logger.warning("quiet too")
    logger.setLevel(logging.DEBUG)
    logger.warning("loud")
    assert "quiet" not in (out := capsys.readouterr().out)
    assert "loud" in out


def test_a_warning_is_shown_once(capsys):
    logger = MMLogger.get_instance("once")
    for number in (1, 1, 2):
        logger.warning("careful %d", number)
        logger.info("again")
    out = capsys.readouterr().out
    assert (out.count("careful 1"), out.count("careful 2"), out.count("again")) == (1, 1, 3)


def test_colours_are_for_terminals(monkeypatch, capsys):
    logger = MMLogger.get_instance("colour")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    logger.info("a")
    monkeypatch.setenv("NO_COLOR", "1")
    logger.info("b")
    monkeypatch.undo()
    logger.info("c")
    first, *others = capsys.readouterr().out.splitlines()
    assert "\033[1;32mINFO\033[0m - a" in first
    assert all("\033" not in line for line in others)


def test_formatter_names_its_formats(monkeypatch):
    plain, off = MMFormatter(color=False), MMFormatter(color=True, blink=True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = MMFormatter(color=True, blink=True)
    assert plain.warn_format == off.warn_format  # standard output is no terminal
    assert plain.info_format == "%(asctime)s - %(name)s - INFO - %(message)s"
    assert plain.err_format == (
        "%(asctime)s - %(name)s - ERROR - %(pathname)s - %(funcName)s - %(lineno)d - %(message)s"
    )
    assert "\033[5m" in coloured.warn_format


def test_output_follows_what_stdout_is(capsys):
    logger = MMLogger.get_instance("follow")
    with capsys.disabled():
        pass
    logger.info("to the captured stream")
    assert "captured" in capsys.readouterr().out
    assert isinstance(logger.handlers[0], logging.StreamHandler)
    assert isinstance(logger.handlers[0], TerminalHandler)


def test_output_goes_to_a_stream_that_is_set(capsys):
    logger = MMLogger.get_instance("given")
    (handler,) = logger.handlers
    assert isinstance(handler.formatter, MMFormatter)
    stream = io.StringIO()
    assert handler.setStream(stream) is sys.stdout
    logger.info("a")
    assert stream.getvalue().endswith(" - INFO - a\n")
    assert handler.setStream(sys.stdout) is stream
    logger.info("b")
    assert capsys.readouterr().out.endswith(" - INFO - b\n")


def test_a_formatter_that_is_set_is_used(capsys):
    logger = MMLogger.get_instance("formatter")
    logger.handlers[0].setFormatter(logging.Formatter("<%(message)s>"))
    logger.info("a")
    assert "<a>\n" == capsys.readouterr().out


def test_an_unknown_level_is_a_key_error_as_in_mmengine():
    with pytest.raises(KeyError, match=r"^unknown log level 'NOPE'"):
        MMLogger("nope", log_level="NOPE")


def test_a_file_handler_may_have_a_file_of_its_own(tmp_path):
    cfg = {"type": "RotatingFileHandler", "filename": str(tmp_path / "own.log"), "maxBytes": 100}
    logger = MMLogger("own", log_file=str(tmp_path / "x.log"), file_handler_cfg=cfg)
    assert str(tmp_path / "own.log") == logger.handlers[1].baseFilename
    logger.close()
    with pytest.raises(AssertionError, match="file_handler_cfg needs a 'type'"):
        MMLogger("none", log_file=str(tmp_path / "x.log"), file_handler_cfg={})


def test_a_failing_terminal_does_not_end_a_run(monkeypatch, capsys):
    logger = MMLogger.get_instance("failing")

    def fail(text):
        raise OSError("gone")

    monkeypatch.setattr(module.terminal, "write", fail)
    logger.info("lost")
    assert "OSError: gone" in capsys.readouterr().err


def test_copies_and_pickles_are_the_instance():
    logger = MMLogger.get_instance("itself")
    assert pickle.loads(pickle.dumps(logger)) is logger
    assert copy.deepcopy(logger) is logger


def test_a_logger_that_nobody_holds_closes_its_file(tmp_path):
    import gc

    logger = MMLogger("loose", log_file=str(tmp_path / "a.log"))
    handler = logger.handlers[1]
    logger.info("x")
    assert handler.stream is not None
    del logger
    gc.collect()
    assert handler.stream is None


def test_print_log_prints_logs_or_is_silent(capsys):
    current = MMLogger.get_instance("current one")
    print_log("printed")
    print_log("silent", logger="silent")
    print_log("to current", logger="current")
    print_log("by name", logger="current one", level=logging.WARNING)
    print_log("by object", logger=current)
    print_log(["an", "object"], logger=current)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "printed"
    assert [line.split(" - ", 2)[2] for line in lines[1:]] == [
        "INFO - to current",
        "WARNING - by name",
        "INFO - by object",
        "INFO - ['an', 'object']",
    ]


def test_print_log_says_who_called_it(capsys):
    print_log("wrong", logger="current", level=logging.ERROR)
    assert f"{__file__} - test_print_log_says_who_called_it" in capsys.readouterr().out


def test_print_log_refuses_what_is_no_logger():
    with pytest.raises(ValueError, match="MMLogger: nobody has not been created!"):
        print_log("x", logger="nobody")
    with pytest.raises(TypeError, match="but got int"):
        print_log("x", logger=3)


def test_current_is_the_one_bound_in_this_context():
    first, second = MMLogger.get_instance("first"), MMLogger.get_instance("second")
    assert MMLogger.get_current_instance() is second
    with first.as_current():
        assert MMLogger.get_current_instance() is first
    assert MMLogger.get_current_instance() is second


@pytest.fixture
def registries_logger():
    logger = logging.getLogger("mmx_registry")
    level, handlers = logger.level, list(logger.handlers)
    yield logger
    logger.setLevel(level)
    logger.handlers[:] = handlers


def test_debug_says_what_is_built_and_where_it_is_defined(registries_logger, capsys):
    from mmx.registry import Registry

    registry = Registry("part", scope="debugged")

    @registry.register_module()
    class Loud:
        pass

    @registry.register_module()
    class Quiet:
        pass

    MMLogger.get_instance("quiet")
    registry.build(dict(type="Quiet"))
    assert capsys.readouterr().out == ""
    MMLogger.get_instance("debug", log_level="DEBUG")
    registry.build(dict(type="Loud"))
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith(' - mmx - DEBUG - Get class `Loud` from "part" registry in "debugged"')
    assert second.endswith(
        " - mmx - DEBUG - An `Loud` instance is built from registry, and its implementation can "
        f"be found in {__name__}"
    )


def test_warnings_of_the_registries_reach_the_log_of_the_run(registries_logger, capsys):
    MMLogger.get_instance("warned")
    MMLogger.get_instance("again")
    registries_logger.warning("plugin %r failed", "x")
    assert capsys.readouterr().out.count("mmx - WARNING - plugin 'x' failed") == 1


def test_importing_logging_imports_no_torch():
    import subprocess

    code = "import mmx.logging, sys; mmx.logging.MMLogger.get_instance('a').info('x'); "
    code += "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_plain_lines_are_those_of_records(tmp_path, capsys, monkeypatch):
    def lines_of(name: str) -> tuple[str, str]:
        path = tmp_path / f"{name}.log"
        logger = MMLogger.get_instance(name, logger_name="same", log_file=str(path), log_level=10)
        logger.info("100 % done")
        logger.debug("why %s", "not")
        logger.debug({"a": 1})
        logger.log(15, "in between")
        return path.read_text(), capsys.readouterr().out

    monkeypatch.setattr("time.time", lambda: 1_700_000_000.25)
    plain = lines_of("plain-lines")
    monkeypatch.setattr(module, "_writes_plainly", lambda handler: False)
    assert lines_of("record-lines") == plain
    assert 4 == plain[0].count("same - ")


def test_whoever_listens_on_a_logger_gets_records(tmp_path):
    seen = []

    class Listener(logging.Handler):
        def emit(self, record):
            seen.append((record.funcName, record.getMessage()))

    logger = MMLogger.get_instance("listened", log_file=str(tmp_path / "a.log"))
    logger.handlers.append(Listener())
    logger.info("to all")
    logger.handlers.pop()
    logger.addFilter(lambda record: seen.append((record.funcName, "filtered")) or True)
    logger.info("to the filter")
    assert [(test_whoever_listens_on_a_logger_gets_records.__name__, "to all")] == seen[:1]
    assert (test_whoever_listens_on_a_logger_gets_records.__name__, "filtered") == seen[1]
    assert 2 == len((tmp_path / "a.log").read_text().splitlines())


def test_a_format_of_ones_own_is_kept(tmp_path):
    logger = MMLogger.get_instance("own-format", log_file=str(tmp_path / "a.log"))
    logger.handlers[1].formatter.info_format = "%(funcName)s: %(message)s"
    logger.info("hello")
    line = f"{test_a_format_of_ones_own_is_kept.__name__}: hello\n"
    assert line == (tmp_path / "a.log").read_text()


def test_a_message_that_cannot_be_shown_does_not_end_a_run(capsys):
    class Broken:
        def __str__(self):
            raise RuntimeError("no text")

    logger = MMLogger.get_instance("broken-message")
    logger.info(Broken())
    logger.info("the next one")
    shown = capsys.readouterr()
    assert "the next one" in shown.out
    assert "no text" in shown.err


def soon_logger(tmp_path, name):
    return MMLogger.get_instance(name, log_file=str(tmp_path / "soon.log"))


def texts(tmp_path):
    return [line.rsplit(" - ", 1)[1] for line in (tmp_path / "soon.log").read_text().splitlines()]


def test_lines_that_come_quickly_are_written_together_and_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("mmx.logging.logger.TOGETHER_S", 3600)
    logger = soon_logger(tmp_path, "soon-order")
    done = []
    logger._written_at = float("-inf")
    for number in range(4):
        logger.info_soon(lambda n=number: f"line {n}", lambda n=number: done.append(n))
    assert ["line 0"] == texts(tmp_path)
    logger.warning("in between")
    assert ["line 0", "line 1", "line 2", "line 3", "in between"] == texts(tmp_path)
    assert [0, 1, 2, 3] == done
    logger.info_soon(lambda: "last")
    logger.write_waiting()
    logger.write_waiting()
    assert ["in between", "last"] == texts(tmp_path)[-2:]


def test_a_line_after_a_while_is_written_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("mmx.logging.logger.TOGETHER_S", 0)
    logger = soon_logger(tmp_path, "soon-slow")
    for number in range(3):
        logger.info_soon(lambda n=number: f"line {n}")
        assert f"line {number}" == texts(tmp_path)[-1]


def test_what_fails_after_a_line_is_raised_when_all_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr("mmx.logging.logger.TOGETHER_S", 3600)
    logger = soon_logger(tmp_path, "soon-fails")
    logger._written_at = time.monotonic()
    done = []
    logger.info_soon(lambda: "one", lambda: [][0])
    logger.info_soon(lambda: "two", lambda: done.append("two"))
    with pytest.raises(IndexError):
        logger.write_waiting()
    assert ["one", "two"] == texts(tmp_path)
    assert ["two"] == done


def test_lines_of_other_threads_and_of_forked_processes_do_not_mix(tmp_path, monkeypatch):
    monkeypatch.setattr("mmx.logging.logger.TOGETHER_S", 3600)
    logger = soon_logger(tmp_path, "soon-threads")
    logger._written_at = time.monotonic()
    callers = []
    logger.info_soon(lambda: callers.append(threading.get_ident()) or "of the main thread")

    def log_there():
        logger.info_soon(lambda: "of another thread")
        logger.info("a message of another thread")

    thread = threading.Thread(target=log_there)
    thread.start()
    thread.join()
    assert ["of another thread", "a message of another thread"] == texts(tmp_path)
    child = os.fork()
    if not child:
        logger.info("of a child")
        os._exit(0)
    os.waitpid(child, 0)
    logger.write_waiting()
    assert ["of a child", "of the main thread"] == texts(tmp_path)[-2:]
    assert [threading.get_ident()] == callers


def test_a_quick_line_reaches_whoever_listens(tmp_path):
    logger = soon_logger(tmp_path, "soon-listens")
    seen = []

    class Listener(logging.Handler):
        def emit(self, record):
            seen.append(record.getMessage())

    logger.handlers.append(Listener())
    logger.info_soon(lambda: "heard")
    logger.write_waiting()
    assert ["heard"] == seen
