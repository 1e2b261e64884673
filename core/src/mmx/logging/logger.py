"""The logger of a run: to the terminal, and to one file per rank that wants one."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from mmx._engine_name import engine_name
from mmx.logging import terminal
from mmx.utils.errors import InvalidValueError
from mmx.utils.manager import ManagerMixin

_LEVEL_COLORS = {
    logging.DEBUG: "\033[1;34m",
    logging.INFO: "\033[1;32m",
    logging.WARNING: "\033[1;33m",
    logging.ERROR: "\033[1;31m",
    logging.CRITICAL: "\033[1;31m",
}
# Lines that follow each other faster than this are written together.
TOGETHER_S = 0.5
_BLINK, _RESET = "\033[5m", "\033[0m"


def process_rank() -> int:
    """Return the rank of this process, 0 where torch or its process group is absent."""
    torch_dist = sys.modules.get("torch.distributed")
    if torch_dist is None or not torch_dist.is_available() or not torch_dist.is_initialized():
        return 0
    return int(torch_dist.get_rank())


class FilterDuplicateWarning(logging.Filter):
    """Lets each warning through once.

    Args:
        name: As for :class:`logging.Filter`.
    """

    # Warnings whose text never repeats must not fill the memory.
    _LIMIT = 10_000

    def __init__(self, name: str = "mmx") -> None:
        super().__init__(name)
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record is to be written."""
        if record.levelno != logging.WARNING:
            return True
        message = record.getMessage()
        if message in self.seen:
            return False
        if len(self.seen) < self._LIMIT:
            self.seen.add(message)
        return True


class MMFormatter(logging.Formatter):
    """Formats a record as ``time - name - LEVEL - message``; errors also say where they arose.

    Args:
        color: Colour the level's name, if standard output is a terminal.
        blink: Let it blink.
        **kwargs: Arguments of :class:`logging.Formatter`, for example ``datefmt``.
    """

    def __init__(self, color: bool = True, blink: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        error = self._get_prefix("ERROR", color, blink=True if blink else color)
        warning = self._get_prefix("WARNING", color, blink=blink)
        info = self._get_prefix("INFO", color, blink=blink)
        debug = self._get_prefix("DEBUG", color, blink=blink)
        critical = self._get_prefix("CRITICAL", color, blink=True if blink else color)
        start, where = "%(asctime)s - %(name)s", "%(pathname)s - %(funcName)s - %(lineno)d"
        self.err_format = f"{start} - {error} - {where} - %(message)s"
        self.warn_format = f"{start} - {warning} - %(message)s"
        self.info_format = f"{start} - {info} - %(message)s"
        self.debug_format = f"{start} - {debug} - %(message)s"
        self.critical_format = f"{start} - {critical} - {where} - %(message)s"
        # The latest second that `format_plain` wrote, and its text.
        self._second: tuple[int, Any] | None = None
        self._asctime = ""

    def _get_prefix(self, level: str, color: bool, blink: bool = False) -> str:
        """Return the level's name, coloured if asked for and standard output is to be."""
        if not color or not self._may_color():
            return level
        code = _LEVEL_COLORS[logging.getLevelNamesMapping()[level]]
        return f"{_BLINK if blink else ''}{code}{level}{_RESET}"

    def _may_color(self) -> bool:
        return terminal.has_color()

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of the record."""
        if record.levelno >= logging.CRITICAL:
            style = self.critical_format
        elif record.levelno >= logging.ERROR:
            style = self.err_format
        elif record.levelno >= logging.WARNING:
            style = self.warn_format
        elif record.levelno >= logging.INFO:
            style = self.info_format
        else:
            style = self.debug_format
        # The base class formats with `_style` and keeps the rest: time, arguments, traceback.
        self._style._fmt = style
        return super().format(record)

    def format_plain(self, level: int, name: str, message: str, created: float) -> str:
        """Return the text of a message below WARNING that has nothing but these.

        What :meth:`format` returns for its record, without the record.

        Raises:
            KeyError: A format has been set that shows something else.
        """
        style = self.info_format if level >= logging.INFO else self.debug_format
        second = int(created)
        if self._second != (second, self.converter):
            self._second = (second, self.converter)
            self._asctime = time.strftime(str(self.datefmt), self.converter(second))
        return style % {"asctime": self._asctime, "name": name, "message": message}


class _ColorFormatter(MMFormatter):
    """Colours wherever it is asked to; who uses it has looked at the stream."""

    def _may_color(self) -> bool:
        return True


class TerminalHandler(logging.StreamHandler[IO[str]]):
    """Writes to what ``sys.stdout`` is at that moment, and above a live display if there is one.

    A stream given by ``setStream`` is written to as it is.
    """

    def __init__(self) -> None:
        self._given: IO[str] | None = None
        super().__init__(sys.stdout)
        self._plain = MMFormatter(color=False, datefmt="%m/%d %H:%M:%S")
        self._colored = _ColorFormatter(color=True, datefmt="%m/%d %H:%M:%S")
        self.formatter = self._plain

    @property
    def stream(self) -> IO[str]:
        """The stream that was set, or the current standard output."""
        return sys.stdout if self._given is None else self._given

    @stream.setter
    def stream(self, value: IO[str]) -> None:
        self._given = None if value is sys.stdout else value

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of the record, coloured on a terminal."""
        return self.current_formatter().format(record)

    def current_formatter(self) -> logging.Formatter:
        """Return the formatter that was set, or the one of those two that suits the terminal."""
        if self.formatter is not None and self.formatter is not self._plain:
            return self.formatter
        if self._given is not None:
            color = terminal.has_color(self._given)
        else:
            live = terminal.live_display() is not None and not os.environ.get("NO_COLOR")
            color = live or terminal.has_color()
        return self._colored if color else self._plain

    def write_line(self, text: str) -> None:
        """Write a line."""
        if self._given is None:
            terminal.write(text)
        else:
            self._given.write(text)
            self.flush()

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record; what goes wrong is reported, never raised."""
        try:
            self.write_line(self.format(record) + self.terminator)
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001 a log line must not end a run
            self.handleError(record)


class _Forwarder(logging.Handler):
    """Hands what lower parts say, such as registries of failing plugins, to the run's logger.

    They stand below this package and write to plain loggers of their own.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record's text, if there is a logger of a run."""
        if MMLogger._instance_dict:
            logger = MMLogger.get_current_instance()
            if logger.isEnabledFor(record.levelno):
                copied = logging.makeLogRecord(record.__dict__)
                copied.name = logger.name
                logger.handle(copied)


def _route_lower_parts(level: int) -> None:
    registries = logging.getLogger("mmx_registry")
    for lower in (registries, logging.getLogger("mmx.utils")):
        if not any(isinstance(handler, _Forwarder) for handler in lower.handlers):
            lower.addHandler(_Forwarder())
    if level <= logging.DEBUG:
        # What is built is said at this level; without it nothing is even put into words.
        registries.setLevel(logging.DEBUG)


class MMLogger(logging.Logger, ManagerMixin):
    """The logger of a run, found by its instance name and not through :mod:`logging`.

    Lines go to standard output and to ``log_file``: on rank 0 always; on rank n, into
    ``<log_file>_rank<n>.log``, if ``distributed`` is set or the level is DEBUG. On a rank other
    than 0 only errors go to standard output. No handler of any other logger is used or changed.

    Args:
        name: Name of the instance.
        logger_name: What log lines show as the name of the logger. Default: the engine's, ``mmx``.
        log_file: The file; its directory is made. None writes none.
        log_level: Level of the handlers.
        file_mode: How the file is opened: ``'w'`` or ``'a'``.
        distributed: Every rank writes a file.
        file_handler_cfg: ``type``, a class of :mod:`logging.handlers` such as
            ``'TimedRotatingFileHandler'``, or ``'FileHandler'``, and its arguments.
        other_ranks_level: A rank that would write no file writes one all the same from its first
            record of this level on, which in a healthy run never comes.

    Raises:
        ValueError: The level or the handler is unknown.

    Examples:
        >>> from mmx.logging import MMLogger
        >>> logger = MMLogger.get_instance('docs', logger_name='Logger')
        >>> logger.name, logger.instance_name
        ('Logger', 'docs')
    """

    def __init__(
        self,
        name: str,
        logger_name: str | None = None,
        log_file: str | None = None,
        log_level: int | str = "INFO",
        file_mode: str = "w",
        distributed: bool = False,
        file_handler_cfg: dict[str, Any] | None = None,
        other_ranks_level: int | str | None = None,
    ) -> None:
        if logger_name is None:
            logger_name = engine_name()
        logging.Logger.__init__(self, logger_name)
        ManagerMixin.__init__(self, name)
        level = _level_number(log_level)
        _route_lower_parts(level)
        rank = process_rank()
        self._log_file: str | None = None
        # Lines of `info_soon`: when each was logged, and what puts it into words.
        self._waiting: list[tuple[float, Callable[[], str], Callable[[], None] | None]] = []
        self._waits_for: int | None = None
        self._written_at = 0.0
        # In a block of `together`, and the time that its lines show.
        self._holds = False
        self._shown_time: float | None = None
        # Who has something to say before the next message, and in which thread.
        self._first: tuple[int, Callable[[], None]] | None = None

        stream_handler = TerminalHandler()
        stream_handler.setLevel(level if rank == 0 else logging.ERROR)
        stream_handler.addFilter(FilterDuplicateWarning(logger_name))
        self.handlers.append(stream_handler)

        if log_file is None:
            return
        writes_all = rank == 0 or distributed or level <= logging.DEBUG
        if not writes_all:
            if other_ranks_level is None:
                return
            level = max(level, _level_number(other_ranks_level))
        self._log_file = _file_of_rank(os.fspath(log_file), rank)
        file_handler = _file_handler(self._log_file, file_mode, file_handler_cfg, not writes_all)
        file_handler.setFormatter(MMFormatter(color=False, datefmt="%Y/%m/%d %H:%M:%S"))
        file_handler.setLevel(level)
        file_handler.addFilter(FilterDuplicateWarning(logger_name))
        self.handlers.append(file_handler)

    @property
    def log_file(self) -> str | None:
        """Path of this process's log file, None if it writes none."""
        return self._log_file

    @classmethod
    def get_current_instance(cls) -> MMLogger:
        """Return the logger that is bound in this context, or else the latest created.

        Before any has been created, one with the engine's name, ``mmx``, is.
        """
        if not cls._instance_dict:
            cls.get_instance(engine_name())
        return super().get_current_instance()  # type: ignore[no-any-return,unused-ignore]

    def info_soon(self, text: Callable[[], str], then: Callable[[], None] | None = None) -> None:
        """Log a line that is put into words only when it is written.

        That is at once, unless the line before was written within the last half a second:
        nobody reads faster, and lines that are written together cost a fraction of their time. Such
        a line waits for the next call after that time, for any other message of this logger in the
        same thread, or for :meth:`write_waiting`.

        Args:
            text: Returns the line; called once, in this thread.
            then: Called in this thread after the line has been written.
        """
        owner = threading.get_ident()
        if not self._waiting:
            self._waits_for = owner
        elif self._waits_for != owner:
            self.info(text())
            if then is not None:
                then()
            return
        self._waiting.append((self._now(), text, then))
        if not self._holds and time.monotonic() - self._written_at >= TOGETHER_S:
            self.write_waiting()

    @contextlib.contextmanager
    def together(self) -> Iterator[Callable[[float], None]]:
        """Write the lines of :meth:`info_soon` of a block together at its end.

        The block gets a function that sets the time which the next lines show, in seconds since the
        epoch.
        """

        def show_time(seconds: float) -> None:
            self._shown_time = seconds

        self._holds = True
        try:
            yield show_time
        finally:
            self._holds, self._shown_time = False, None
            self.write_waiting()

    def _now(self) -> float:
        return time.time() if self._shown_time is None else self._shown_time

    def before_message(self, speak: Callable[[], None] | None) -> None:
        """Let somebody log lines before the next message, as they belong before it.

        Args:
            speak: Called once, and only in this thread; None calls nobody any more.
        """
        self._first = None if speak is None else (threading.get_ident(), speak)

    def write_waiting(self) -> None:
        """Write the lines of :meth:`info_soon` that wait, if they were logged in this thread.

        What one of their calls raises is raised after all have been made.
        """
        if self._first is not None and self._first[0] == threading.get_ident():
            _, speak = self._first
            self._first = None
            speak()
        if not self._waiting or self._waits_for != threading.get_ident():
            return
        # Before anything is called that may itself log.
        waiting, self._waiting = self._waiting, []
        lines = [(created, text()) for created, text, _ in waiting]
        if self.isEnabledFor(logging.INFO) and not (
            self._writes_plainly() and self._log_plainly(logging.INFO, lines)
        ):
            for _, line in lines:
                super()._log(logging.INFO, line, ())
        errors = []
        for _, _, then in waiting:
            try:
                if then is not None:
                    then()
            except Exception as error:  # noqa: BLE001 the others are not to be lost for it
                errors.append(error)
        self._written_at = time.monotonic()
        if errors:
            raise errors[0]

    def _writes_plainly(self) -> bool:
        """Tell whether nobody but this module sees what is logged."""
        return not (self.filters or self.disabled) and all(map(_writes_plainly, self.handlers))

    def _log(
        self,
        level: int,
        msg: object,
        args: Any,
        exc_info: Any = None,
        extra: Mapping[str, object] | None = None,
        stack_info: bool = False,
        stacklevel: int = 1,
    ) -> None:
        """Log a message that the logger's level lets through.

        A training run writes the same kind of line over and over. One that shows no more than its
        text is written without a record where nobody but this module sees it.
        """
        if self._waiting or self._first is not None:
            self.write_waiting()
        if (
            level < logging.WARNING
            and msg.__class__ is str
            and not (args or exc_info or extra or stack_info)
            and self._writes_plainly()
            and self._log_plainly(level, [(self._now(), msg)])
        ):
            return
        # One frame more lies between here and the caller.
        super()._log(level, msg, args, exc_info, extra, stack_info, stacklevel + 1)

    def _log_plainly(self, level: int, messages: Sequence[tuple[float, str]]) -> bool:
        """Write lines; False, with nothing written, if a formatter wants to know more.

        Args:
            level: Their level.
            messages: When each was logged, and its text.
        """
        handlers: list[Any] = [h for h in self.handlers if level >= h.level]
        texts = []
        try:
            for handler in handlers:
                formatted = _formatter_of(handler).format_plain
                texts.append(
                    "".join(
                        formatted(level, self.name, message, created) + handler.terminator
                        for created, message in messages
                    )
                )
        except (KeyError, TypeError, ValueError):
            return False
        for handler, text in zip(handlers, texts, strict=True):
            with handler.lock:
                try:
                    if handler.__class__ is TerminalHandler:
                        handler.write_line(text)
                    else:
                        handler.stream.write(text)
                        handler.flush()
                except Exception:  # noqa: BLE001 a log line must not end a run
                    where = "(unknown file)", 0
                    handler.handleError(self.makeRecord(self.name, level, *where, text, (), None))
        return True

    def callHandlers(self, record: logging.LogRecord) -> None:
        """Hand the record to the logger's own handlers, and to no others."""
        if self._waiting or self._first is not None:
            self.write_waiting()
        for handler in self.handlers:
            if record.levelno >= handler.level:
                handler.handle(record)

    def setLevel(self, level: int | str) -> None:
        """Set the level below which nothing is logged, whatever the handlers' levels are."""
        self.level = _level_number(level)
        # `logging` clears this cache only for loggers that it knows.
        self._cache.clear()  # type: ignore[attr-defined]  # not in typeshed

    def isEnabledFor(self, level: int) -> bool:
        """Tell whether records of this level are logged."""
        return not self.disabled and level >= self.getEffectiveLevel()

    def is_heard(self, level: int) -> bool:
        """Tell whether a record of this level gets to a filter or handler; on most ranks few do."""
        return self.isEnabledFor(level) and (
            bool(self.filters) or any(level >= handler.level for handler in self.handlers)
        )

    def close(self) -> None:
        """Flush and close the handlers. Closing twice is fine."""
        self.write_waiting()
        for handler in self.handlers:
            handler.flush()
            if not isinstance(handler, TerminalHandler):
                handler.close()

    def __del__(self) -> None:
        # Nobody else knows the handlers. Names may be gone when the interpreter ends.
        with contextlib.suppress(Exception):
            self.close()

    def __reduce__(self) -> Any:
        """Pickle as the instance of this name; logging's own way looks where it is not."""
        return MMLogger.get_instance, (self.instance_name,)


def _forget_waiting() -> None:
    """Leave lines that waited when this process was forked to its parent."""
    for logger in MMLogger._instance_dict.values():
        logger._waiting, logger._first = [], None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_waiting)


def _formatter_of(handler: Any) -> Any:
    is_terminal = handler.__class__ is TerminalHandler
    return handler.current_formatter() if is_terminal else handler.formatter


def _writes_plainly(handler: logging.Handler) -> bool:
    """Tell whether a handler does no more with a record than this module made it do."""
    if handler.__class__ is not TerminalHandler and (
        handler.__class__ is not logging.FileHandler or handler.stream is None
    ):
        return False
    formatter = handler.formatter
    return (
        (formatter.__class__ is MMFormatter or formatter.__class__ is _ColorFormatter)
        and formatter.datefmt is not None
        and all(known.__class__ is FilterDuplicateWarning for known in handler.filters)
    )


class UnknownLevelError(ValueError, KeyError):
    """A log level that is none; a KeyError in MMEngine."""

    def __str__(self) -> str:
        return str(self.args[0])


def _level_number(level: int | str) -> int:
    if isinstance(level, str):
        levels = logging.getLevelNamesMapping()
        if level not in levels:
            raise UnknownLevelError(f"unknown log level {level!r}; there are {', '.join(levels)}")
        return levels[level]
    if isinstance(level, bool) or not isinstance(level, int):
        raise TypeError(f"a log level should be an int or a str, but got {level!r}")
    return level


def _file_of_rank(log_file: str, rank: int) -> str:
    if rank == 0:
        return log_file
    stem, suffix = os.path.splitext(log_file)
    return f"{stem}_rank{rank}{suffix}"


def _file_handler(
    path: str, mode: str, config: dict[str, Any] | None, delay: bool
) -> logging.Handler:
    directory = os.path.dirname(path)
    if directory:
        os.makedirs(directory, exist_ok=True)
    if config is None:
        return logging.FileHandler(path, mode, encoding="utf-8", delay=delay)
    if not isinstance(config, Mapping):
        raise TypeError(f"file_handler_cfg should be a dict, but got {type(config).__name__}")
    options = dict(config)
    if "type" not in options:
        raise InvalidValueError(
            "file_handler_cfg needs a 'type', for example 'TimedRotatingFileHandler', but got "
            f"{options!r}"
        )
    name = options.pop("type")
    if name == "FileHandler":
        options.setdefault("mode", mode)
        kind: Any = logging.FileHandler
    else:
        kind = getattr(logging.handlers, str(name), None)
        if not (isinstance(kind, type) and issubclass(kind, logging.FileHandler)):
            # RotatingFileHandler and its kin are FileHandlers; a socket has no file.
            raise ValueError(
                f"`logging.handlers` does not contain {name} or it writes no file; there are "
                "FileHandler, RotatingFileHandler, TimedRotatingFileHandler and "
                "WatchedFileHandler"
            )
    options.setdefault("encoding", "utf-8")
    options.setdefault("filename", path)
    options.setdefault("delay", delay)
    return kind(**options)  # type: ignore[no-any-return]  # a subclass of Handler


def print_log(
    msg: Any, logger: logging.Logger | str | None = None, level: int = logging.INFO
) -> None:
    """Print or log a message.

    Args:
        msg: The message.
        logger: A logger; ``'current'``, the run's; ``'silent'``, none at all; the instance name
            of a logger; or None, which prints.
        level: Level of the message, where there is a logger.

    Raises:
        ValueError: There is no logger of that name.
        TypeError: ``logger`` is none of these.
    """
    if logger is None:
        terminal.write(f"{msg}\n")
    elif isinstance(logger, logging.Logger):
        logger.log(level, msg, stacklevel=2)
    elif logger == "silent":
        pass
    elif logger == "current":
        MMLogger.get_current_instance().log(level, msg, stacklevel=2)
    elif isinstance(logger, str):
        if not MMLogger.check_instance_created(logger):
            raise ValueError(f"MMLogger: {logger} has not been created!")
        MMLogger.get_instance(logger).log(level, msg, stacklevel=2)
    else:
        raise TypeError(
            '`logger` should be either a logging.Logger object, str, "silent", "current" or None, '
            f"but got {type(logger).__name__}"
        )
