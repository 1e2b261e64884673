"""Choosing and registering back ends and handlers, and the older interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmx import fileio
from mmx.fileio import BaseFileHandler, BaseStorageBackend, FileClient, LocalBackend
from mmx.fileio.backends import backends, prefix_to_backends
from mmx.fileio.file_client import HardDiskBackend
from mmx.fileio.handlers import file_handlers
from mmx.testing import isolate


@pytest.fixture(autouse=True)
def _isolated() -> Iterator[None]:
    state = (
        dict(FileClient._backends),
        dict(FileClient._prefix_to_backends),
        dict(FileClient._instances),
    )
    with isolate():
        yield
    for table, old in zip(
        (FileClient._backends, FileClient._prefix_to_backends, FileClient._instances),
        state,
        strict=True,
    ):
        table.clear()
        table.update(old)  # type: ignore[arg-type]  # of the same kind


class Echo(BaseStorageBackend):
    def __init__(self, tail: str = "") -> None:
        self.tail = tail

    def get(self, filepath: Any) -> bytes:
        return f"{filepath}{self.tail}".encode()

    def get_text(self, filepath: Any, encoding: str = "utf-8") -> str:
        return self.get(filepath).decode(encoding)


def test_the_name_wins_over_the_prefix() -> None:
    fileio.register_backend("echo", Echo, prefixes="echo")
    assert b"echo://x" == fileio.get("echo://x")
    assert b"s3://x!" == fileio.get("s3://x", {"backend": "echo", "tail": "!"})
    assert isinstance(fileio.get_file_backend(backend_args={"backend": "echo"}), Echo)


def test_arguments_are_not_changed() -> None:
    args = {"backend": "local"}
    fileio.exists("x", args)
    assert {"backend": "local"} == args


def test_something_must_choose_the_back_end() -> None:
    with pytest.raises(
        ValueError, match='uri should not be None when "backend" does not exist in backend_args'
    ):
        fileio.get_file_backend()
    with pytest.raises(
        fileio.UnknownBackendError, match="no storage back end has the name 'tape'; registered are"
    ):
        fileio.get_file_backend(backend_args={"backend": "tape"})


def test_a_singleton_is_the_same_for_the_same_arguments() -> None:
    fileio.register_backend("echo", Echo)

    def make(**kwargs: Any) -> Any:
        return fileio.get_file_backend("a", backend_args=kwargs, enable_singleton=True)

    assert make(backend="echo", tail="1") is make(tail="1", backend="echo")
    assert make(backend="echo", tail="1") is not make(backend="echo", tail="2")
    assert fileio.get_file_backend("a") is not fileio.get_file_backend("a")


def test_registration_as_decorator() -> None:
    @fileio.register_backend("echo2", prefixes=["e", "f"])  # type: ignore[misc]  # a decorator here
    class Echo2(Echo):
        pass

    assert Echo2 is backends["echo2"]
    assert Echo2 is prefix_to_backends["e"] is prefix_to_backends["f"]


@pytest.mark.parametrize(
    ("name", "backend", "prefixes", "error", "text"),
    [
        (1, Echo, None, TypeError, "the backend name should be a string, but got <class 'int'>"),
        ("a", 1, None, TypeError, "backend should be a class, but got <class 'int'>"),
        (
            "a",
            int,
            None,
            TypeError,
            "backend <class 'int'> is not a subclass of BaseStorageBackend",
        ),
        ("local", Echo, None, ValueError, 'local is already registered.*"force=True"'),
        ("a", Echo, "http", ValueError, 'http is already registered.*"force=True"'),
        ("a", Echo, 1, TypeError, "prefixes should be a string or a list of strings, but got 1"),
    ],
)
def test_wrong_registrations_are_refused_and_leave_no_trace(
    name: Any, backend: Any, prefixes: Any, error: type[Exception], text: str
) -> None:
    before = dict(backends), dict(prefix_to_backends)
    with pytest.raises(error, match=text):
        fileio.register_backend(name, backend, prefixes=prefixes)
    assert before == (backends, prefix_to_backends)


def test_a_replaced_back_end_loses_its_prefixes() -> None:
    fileio.register_backend("echo", Echo, prefixes=["e", "f"])

    class Other(Echo):
        pass

    fileio.register_backend("echo", Other, prefixes="e", force=True)
    assert Other is prefix_to_backends["e"]
    assert "f" not in prefix_to_backends


def test_a_base_back_end_knows_its_name_and_no_links() -> None:
    assert ("Echo", False) == (Echo().name, Echo().allow_symlink)
    assert ("LocalBackend", True) == (LocalBackend().name, LocalBackend().allow_symlink)


# Handlers


def test_handlers_are_registered_for_one_or_several_formats(tmp_path: Path) -> None:
    @fileio.register_handler(["shout", "SHOUT"], mark="!")
    class Shout(BaseFileHandler):
        def __init__(self, mark: str) -> None:
            self.mark = mark

        def load_from_fileobj(self, file: Any, **kwargs: Any) -> Any:
            return file.read().rstrip(self.mark)

        def dump_to_fileobj(self, obj: Any, file: Any, **kwargs: Any) -> None:
            file.write(self.dump_to_str(obj))

        def dump_to_str(self, obj: Any, **kwargs: Any) -> str:
            return f"{obj}{self.mark}"

    path = tmp_path / "a.shout"
    fileio.dump("hey", path)
    assert "hey!" == path.read_text()
    assert "hey" == fileio.load(path)
    assert "SHOUT" in file_handlers


def test_wrong_handlers_are_refused() -> None:
    with pytest.raises(
        TypeError, match="handler must be a child of BaseFileHandler, not <class 'int'>"
    ):
        fileio.register_handler("a")(int)  # type: ignore[type-var]  # on purpose
    with pytest.raises(TypeError, match="file_formats must be a str or a list of str"):
        fileio.register_handler(["a", 1])(fileio.JsonHandler)  # type: ignore[list-item]  # on purpose


# The older interface


@pytest.fixture
def client(tmp_path: Path) -> FileClient:
    with pytest.warns(DeprecationWarning, match='"FileClient" will be deprecated'):
        return FileClient()


def test_a_client_hands_calls_on(client: FileClient, tmp_path: Path) -> None:
    path = str(tmp_path / "d" / "a.txt")
    client.put(b"1", path)
    client.put_text("2", str(tmp_path / "b.txt"))
    assert (b"1", "1") == (client.get(path), client.get_text(path))
    assert (True, True, False) == (client.exists(path), client.isfile(path), client.isdir(path))
    assert path == client.join_path(str(tmp_path), "d", "a.txt")
    with client.get_local_path(path) as local:
        assert path == local
    assert {"b.txt", "d", "d/a.txt"} == set(client.list_dir_or_file(str(tmp_path), recursive=True))
    client.remove(path)
    assert not client.exists(path)
    assert ("HardDiskBackend", True) == (client.name, client.allow_symlink)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_clients_are_the_same_for_the_same_arguments(client: FileClient) -> None:
    assert client is FileClient("disk") is FileClient()
    assert client is FileClient.infer_client(uri="/a/b")
    assert client is FileClient.infer_client({"backend": "disk"})
    assert "HTTPBackend" == FileClient(prefix="http").name
    assert isinstance(client.client, HardDiskBackend)


def test_the_prefix_of_a_local_path_is_none() -> None:
    assert FileClient.parse_uri_prefix("/a") is None
    assert "s3" == FileClient.parse_uri_prefix("cluster:s3://a")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: FileClient("tape"),
            ValueError,
            r"Backend tape is not supported. Currently supported ones are \[",
        ),
        (lambda: FileClient(prefix="tape"), ValueError, "prefix tape is not supported"),
        (lambda: FileClient.infer_client(), ValueError, "file_client_args or uri must be given"),
        (lambda: FileClient.register_backend(1, Echo), TypeError, "name should be a string"),
        (
            lambda: FileClient.register_backend("a", 1),
            TypeError,
            "backend should be a class but got",
        ),
        (
            lambda: FileClient.register_backend("a", int),
            TypeError,
            "is not a subclass of BaseStorageBackend",
        ),
        (lambda: FileClient.register_backend("disk", Echo), KeyError, "disk is already registered"),
        (
            lambda: FileClient.register_backend("a", Echo, prefixes="http"),
            KeyError,
            "http is already",
        ),
        (
            lambda: FileClient.register_backend("a", Echo, prefixes=1),
            TypeError,
            "prefixes should be",
        ),
    ],
)
def test_wrong_arguments_of_clients_are_refused(call: Any, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        call()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_clients_of_a_replaced_back_end_are_not_handed_out() -> None:
    FileClient.register_backend("echo", Echo, prefixes="e")
    old = FileClient("echo")
    assert old is FileClient("echo")

    @FileClient.register_backend("echo", force=True, prefixes=["e"])  # type: ignore[misc]  # a decorator here
    class Other(Echo):
        pass

    assert "Other" == FileClient("echo").name == FileClient(prefix="e").name


def test_reading_with_the_older_arguments_warns(tmp_path: Path) -> None:
    path = str(tmp_path / "a.json")
    with pytest.warns(DeprecationWarning, match='"file_client_args" will be deprecated'):
        fileio.dump([1], path, file_client_args={"backend": "disk"})
    with pytest.warns(DeprecationWarning, match='"file_client_args" will be deprecated'):
        assert [1] == fileio.load(path, file_client_args={"backend": "disk"})
    with (
        pytest.warns(DeprecationWarning, match='"file_client_args" will be deprecated'),
        pytest.raises(ValueError, match='"backend_args" cannot be set at the same time'),
    ):
        fileio.load(path, file_client_args={}, backend_args={})
