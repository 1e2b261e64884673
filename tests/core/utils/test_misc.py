"""Sequences, imports, methods, decorators, versions, packages, paths, timers."""

import os
import subprocess
import sys
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import pytest

from mmx import utils
from mmx.logging import MMLogger
from mmx.utils.package_utils import package2module
from mmx.utils.path import find_vcs_root

Pair = namedtuple("Pair", "a b")


# Sequences


@pytest.mark.parametrize(
    ("check", "seq", "kind", "expected"),
    [
        (utils.is_list_of, [1, 2], int, True),
        (utils.is_list_of, [1, "a"], int, False),
        (utils.is_list_of, [1, "a"], (int, str), True),
        (utils.is_list_of, (1,), int, False),
        (utils.is_list_of, [], int, True),
        (utils.is_tuple_of, (1,), int, True),
        (utils.is_tuple_of, [1], int, False),
        (utils.is_seq_of, "ab", str, True),
        (utils.is_seq_of, 5, int, False),
        (utils.is_seq_of, {1}, int, False),
    ],
)
def test_sequences_of_a_type(check: Any, seq: Any, kind: Any, expected: bool) -> None:
    assert expected == check(seq, kind)


def test_the_type_of_a_sequence_is_a_type() -> None:
    assert utils.is_seq_of({1}, int, seq_type=set)
    with pytest.raises(TypeError, match="seq_type must be a type, got 1"):
        utils.is_seq_of([1], int, seq_type=1)  # type: ignore[arg-type]  # on purpose


def test_casts() -> None:
    assert ["1", "2"] == list(utils.iter_cast([1, 2], str))
    assert [1, 2] == utils.list_cast(["1", "2"], int)
    assert (1.0, 2.0) == utils.tuple_cast((1, 2), float)
    with pytest.raises(TypeError, match="inputs must be an iterable object"):
        utils.list_cast(1, int)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(TypeError, match='"dst_type" must be a valid type'):
        utils.iter_cast([1], "str")  # type: ignore[arg-type]  # on purpose


def test_lists_are_cut_and_joined() -> None:
    assert [[1, 2], [3, 4]] == utils.slice_list([1, 2, 3, 4], 2)
    assert [[1], [2, 3]] == utils.slice_list([1, 2, 3], [1, 2])
    assert [1, 2, 3] == utils.concat_list([[1], [2, 3]])
    for lens, error, text in (
        (2, ValueError, "3 elements cannot be cut into pieces of 2"),
        (0, ValueError, "3 elements cannot be cut into pieces of 0"),
        ([1, 1], ValueError, "sum of lens and list length does not match: 2 != 3"),
        ("a", TypeError, '"indices" must be an integer or a list of integers'),
    ):
        with pytest.raises(error, match=text):
            utils.slice_list([1, 2, 3], lens)  # type: ignore[arg-type]  # on purpose


def test_numbers_become_tuples() -> None:
    assert ((1,), (1, 1), (1, 1, 1), (1,) * 4) == tuple(
        f(1) for f in (utils.to_1tuple, utils.to_2tuple, utils.to_3tuple, utils.to_4tuple)
    )
    assert (7,) * 5 == utils.to_ntuple(5)(7)
    assert [3] == utils.to_2tuple([3])
    assert "ab" == utils.to_2tuple("ab")


def test_functions_reach_into_nested_data() -> None:
    data = {"a": [1, (2, "x")], "b": Pair(3, None), "c": 4}
    result = utils.apply_to(data, lambda x: isinstance(x, int), lambda x: x * 10)
    assert {"a": [10, (20, "x")], "b": Pair(30, None), "c": 40} == result
    assert 1 == data["a"][0]  # type: ignore[index]  # a list


# Imports and methods


def test_modules_are_imported_by_name() -> None:
    assert [os.path, sys] == utils.import_modules_from_strings(["os.path", "sys"])
    assert os.path is utils.import_modules_from_strings("os.path")
    assert utils.import_modules_from_strings([]) is None
    assert utils.import_modules_from_strings(None) is None
    with pytest.raises(TypeError, match="custom_imports must be a list but got type <class 'int'>"):
        utils.import_modules_from_strings(1)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(TypeError, match="1 is of type <class 'int'> and cannot be imported"):
        utils.import_modules_from_strings([1])  # type: ignore[list-item]  # on purpose
    with pytest.raises(ImportError, match="no_such_module") as caught:
        utils.import_modules_from_strings(["no_such_module"])
    assert ["Failed to import no_such_module"] == caught.value.__notes__
    with pytest.warns(UserWarning, match="no_such_module failed to import and is ignored"):
        assert [None, os] == utils.import_modules_from_strings(["no_such_module", "os"], True)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("os", os),
        ("os.path.join", os.path.join),
        ("mmx.utils.Timer.start", utils.Timer.start),
        ("os.nothing", None),
        ("nothing.at.all", None),
    ],
)
def test_objects_are_found_by_name(name: str, found: Any) -> None:
    assert found is utils.get_object_from_string(name)


class Base:
    attribute = 1

    def method(self) -> None: ...


class Derived(Base):
    def method(self) -> None: ...


class Plain(Base):
    pass


def test_overridden_methods_are_known() -> None:
    assert utils.is_method_overridden("method", Base, Derived)
    assert utils.is_method_overridden("method", Base, Derived())
    assert not utils.is_method_overridden("method", Base, Plain)
    assert not utils.is_method_overridden("method", Base, Base)
    with pytest.raises(TypeError, match="base_class doesn't accept instance"):
        utils.is_method_overridden("method", Base(), Derived)  # type: ignore[arg-type]  # on purpose


def test_methods_are_callable() -> None:
    assert utils.has_method(Base(), "method")
    assert not utils.has_method(Base(), "attribute")
    assert not utils.has_method(Base(), "nothing")


# Decorators


def test_needs_are_checked_at_the_call(capsys: pytest.CaptureFixture[str]) -> None:
    @utils.requires_executable(["sh", "no_such_program"])
    def run() -> None: ...

    @utils.requires_package("no_such_package")
    def load() -> None: ...

    @utils.requires_package(["json", "os"])
    def fine() -> int:
        return 1

    with pytest.raises(RuntimeError, match='"no_such_program" are required in method "run"'):
        run()
    with pytest.raises(RuntimeError, match='"no_such_package" are required in method "load"'):
        load()
    assert 1 == fine()
    assert (
        'Prerequisites "no_such_program" are required in method "run" but not found, please '
        "install them first.\n"
        'Prerequisites "no_such_package" are required in method "load" but not found, please '
        "install them first.\n"
    ) == capsys.readouterr().out


def test_old_arguments_are_renamed_with_a_warning() -> None:
    @utils.deprecated_api_warning({"old": "new"}, cls_name="Class")
    def function(new: int = 1, other: int = 2) -> tuple[int, int]:
        return new, other

    with pytest.warns(
        DeprecationWarning, match='"old" is deprecated in `Class.function`, please use "new"'
    ):
        assert (5, 2) == function(old=5)  # type: ignore[call-arg]  # on purpose
    assert (6, 2) == function(6)
    with pytest.raises(
        ValueError, match="replace the deprecated key `old` to new key `new`, but got them"
    ):
        function(old=1, new=2)  # type: ignore[call-arg]  # on purpose


def test_deprecated_functions_say_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MMLogger, "_instance_dict", OrderedDict())
    MMLogger.get_instance("deprecated")

    @utils.deprecated_function("0.1", "0.2", "use another")
    def old() -> int:
        """Return one."""
        return 1

    notice = (
        ".. deprecated:: 0.1\n"
        "    Deprecated and will be removed in version 0.2.\n"
        "    Please use another.\n\n\n"
    )
    assert notice + "    Return one." == old.__doc__
    assert (1, 1) == (old(), old())
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(
        f" - mmx - WARNING - '{__name__}.old' is deprecated in version 0.1 and will be removed in "
        "version 0.2. Please use another."
    )

    @utils.deprecated_function("0.1", "0.2", "use another")
    def bare() -> None: ...

    assert notice == bare.__doc__


# Versions and packages


def test_versions_are_padded_tuples() -> None:
    assert (1, 2, 3, 0, 0, 0) == utils.digit_version("1.2.3")
    assert (1, 2, 3, 0, -1, 1) == utils.digit_version("1.2.3rc1")
    assert (1, 0, 0, 0, -3, 2) == utils.digit_version("v1.0a2")
    assert (1, 0, 0, 0, -2, 0) == utils.digit_version("1.0b")
    assert (2, 0, 0, 0, 1, 1) == utils.digit_version("2.0.0.post1")
    assert (2, 13, 0, 0, 0, 0) == utils.digit_version("2.13+cu128")
    assert (1, 2, 0, 0) == utils.digit_version("1.2.3", length=2)


def test_versions_compare() -> None:
    ordered = [
        *("1.0.0.dev0", "1.0.0a", "1.0.0a1", "1.0.0b", "1.0.0rc", "1.0.0rc1", "1.0.0"),
        *("1.0.0.post", "1.0.0.post1", "1.0.1", "1.10"),
    ]
    versions = [utils.digit_version(v) for v in ordered]
    assert sorted(versions) == versions
    assert len(set(versions)) == len(versions)


@pytest.mark.parametrize("wrong", ["abc", "", "parrots"])
def test_what_is_no_version_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"version|Version"):
        utils.digit_version(wrong)


def test_the_commit_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "none" == utils.get_git_hash("none")
    with pytest.raises(TypeError, match="digits must be None or an integer"):
        utils.get_git_hash(digits="4")  # type: ignore[arg-type]  # on purpose
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    assert 40 == len(utils.get_git_hash())
    assert utils.get_git_hash()[:6] == utils.get_git_hash(digits=6)


def test_installed_packages_are_known() -> None:
    assert utils.is_installed("torch")
    assert utils.is_installed("PyYAML")
    assert utils.is_installed("yaml")
    assert not utils.is_installed("no_such_package")
    assert "torch" == os.path.basename(utils.get_installed_path("torch"))
    assert "tomli_w" == os.path.basename(utils.get_installed_path("tomli-w"))
    assert "yaml" == os.path.basename(utils.get_installed_path("PyYAML"))
    assert "yaml" == package2module("PyYAML")
    with pytest.raises(ModuleNotFoundError, match="no_such_package is not installed"):
        utils.get_installed_path("no_such_package")


def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    utils.call_command(["touch", str(tmp_path / "x")])
    assert (tmp_path / "x").exists()
    with pytest.raises(subprocess.CalledProcessError):
        utils.call_command(["false"])
    calls: list[Any] = []
    monkeypatch.setattr("mmx.utils.package_utils.call_command", calls.append)
    utils.install_package("torch")
    utils.install_package("no_such_package")
    assert [[sys.executable, "-m", "pip", "install", "no_such_package"]] == calls


# Paths


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a.txt", "b.TXT", ".h.txt", "t/c.txt", "t/d.json", ".hid/z.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({}, ["a.txt", "b.TXT"]),
        ({"recursive": True}, [".hid/z.txt", "a.txt", "b.TXT", "t/c.txt", "t/d.json"]),
        ({"suffix": ".txt"}, ["a.txt"]),
        ({"suffix": (".json", ".TXT"), "recursive": True}, ["b.TXT", "t/d.json"]),
        ({"suffix": ".txt", "case_sensitive": False}, ["a.txt", "b.TXT"]),
        ({"suffix": (".TXT",), "case_sensitive": False}, ["a.txt", "b.TXT"]),
    ],
)
def test_directories_are_scanned(kwargs: Any, expected: list[str], tree: Path) -> None:
    assert expected == sorted(utils.scandir(tree, **kwargs))
    assert expected == sorted(utils.scandir(str(tree), **kwargs))


def test_scans_check_their_arguments(tree: Path) -> None:
    with pytest.raises(TypeError, match='"dir_path" must be a string or Path object'):
        utils.scandir(1)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(TypeError, match='"suffix" must be a string or tuple of strings'):
        utils.scandir(tree, 1)  # type: ignore[arg-type]  # on purpose


def test_files_and_directories(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert utils.is_filepath("a")
    assert utils.is_filepath(tree)
    assert not utils.is_filepath(1)
    with utils.fopen(tree / "a.txt") as file:
        assert "" == file.read()
    with pytest.raises(ValueError, match="`filepath` should be a string or a Path"):
        utils.fopen(1)  # type: ignore[arg-type]  # on purpose
    utils.check_file_exist(tree / "a.txt")
    with pytest.raises(FileNotFoundError, match='file "nothing" does not exist'):
        utils.check_file_exist("nothing")
    with pytest.raises(FileNotFoundError, match="no nothing"):
        utils.check_file_exist("nothing", "no {}")
    utils.mkdir_or_exist(tree / "x" / "y")
    utils.mkdir_or_exist(str(tree / "x" / "y"))
    utils.mkdir_or_exist("")
    assert (tree / "x" / "y").is_dir()
    link = tree / "link"
    utils.symlink("a.txt", link)
    utils.symlink("b.TXT", link)
    assert "b.TXT" == os.readlink(link)
    with pytest.raises(FileExistsError):
        utils.symlink("a.txt", link, overwrite=False)
    for path, expected in (("/a", True), ("a", False), ("s3://a", True), ("http://a", True)):
        assert expected == utils.is_abs(path)
    (tree / ".git").mkdir()
    assert str(tree) == find_vcs_root(tree / "t" / "c.txt")


# Time


def test_timers(capsys: pytest.CaptureFixture[str]) -> None:
    timer = utils.Timer(start=False)
    assert not timer.is_running
    for ask in (timer.since_start, timer.since_last_check):
        with pytest.raises(utils.TimerError, match="timer is not running"):
            ask()
    timer.start()
    assert timer.is_running
    assert 0 <= timer.since_last_check() <= timer.since_start()
    with utils.Timer(print_tmpl="took {:.0f}"):
        pass
    assert "took 0\n" == capsys.readouterr().out
    assert 0 == utils.check_time("once")
    assert utils.check_time("once") >= 0
