"""One contract for every storage that can be written, and what is special about each."""

from __future__ import annotations

import os
import pickle
import shutil
import stat
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmx import fileio
from mmx.fileio import (
    FsspecBackend,
    HTTPBackend,
    LmdbBackend,
    LocalBackend,
    MemcachedBackend,
    MemoryBackend,
    PetrelBackend,
    S3Backend,
)
from mmx.fileio.paths import parse_uri_prefix, safe_join


class Storage:
    """A root and the arguments that reach it."""

    def __init__(self, root: str, args: dict[str, Any] | None) -> None:
        self.root = root
        self.args = args

    def __call__(self, *parts: str) -> str:
        return str(fileio.join_path(self.root, *parts, backend_args=self.args))


@pytest.fixture(params=["local", "memory", "s3", "fsspec-file", "petrel"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "local":
        yield Storage(str(tmp_path / "root"), None)
    elif request.param == "memory":
        import fsspec

        yield Storage("memory://root", None)
        fs = fsspec.filesystem("memory")
        fs.store.clear()
        fs.pseudo_dirs[:] = [""]
    elif request.param == "fsspec-file":
        yield Storage(str(tmp_path / "root"), {"backend": "fsspec", "protocol": "file"})
    else:
        args = request.getfixturevalue("s3")
        if request.param == "petrel":
            conf = tmp_path / "petrel.conf"
            conf.write_text(
                "[DEFAULT]\ndefault_cluster = one\n[one]\naccess_key = key\nsecret_key = secret\n"
                f"host_base = {args['endpoint_url'].removeprefix('http://')}\n"
            )
            yield Storage(
                "/data/root",
                {
                    "backend": "petrel",
                    "conf_path": str(conf),
                    "path_mapping": {"/data/": "petrel://bucket/"},
                },
            )
        else:
            yield Storage("s3://bucket/root", args)


def test_files_are_written_and_read(storage: Storage) -> None:
    path, args = storage("a", "b.bin"), storage.args
    assert not fileio.exists(path, args)
    fileio.put(b"\x00one", path, args)
    assert b"\x00one" == fileio.get(path, args)
    fileio.put(b"", path, args)
    assert b"" == fileio.get(path, args)
    fileio.put_text("grüße\n", storage("c.txt"), args)
    assert "grüße\n" == fileio.get_text(storage("c.txt"), backend_args=args)
    assert (True, False, True) == tuple(
        ask(path, args) for ask in (fileio.isfile, fileio.isdir, fileio.exists)
    )
    folder = storage("a")
    assert (False, True, True) == tuple(
        ask(folder, args) for ask in (fileio.isfile, fileio.isdir, fileio.exists)
    )
    with pytest.raises(FileNotFoundError):
        fileio.get(storage("absent"), args)


def test_a_local_path_has_the_content_and_the_suffix(storage: Storage) -> None:
    fileio.put(b"data", storage("x.jpg"), storage.args)
    with fileio.get_local_path(storage("x.jpg"), storage.args) as path:
        assert b"data" == Path(path).read_bytes()
        assert str(path).endswith(".jpg")
        is_local = str(path) == storage("x.jpg")
    assert is_local == os.path.exists(path)
    if not is_local:
        with (
            pytest.raises(FileNotFoundError),
            fileio.get_local_path(storage("absent"), storage.args),
        ):
            pass


def test_files_are_copied(storage: Storage, tmp_path: Path) -> None:
    args = storage.args
    fileio.put(b"1", storage("a.txt"), args)
    fileio.put(b"2", storage("folder", "b.txt"), args)
    assert storage("c.txt") == fileio.copyfile(storage("a.txt"), storage("c.txt"), args)
    assert b"1" == fileio.get(storage("c.txt"), args)
    # Into a directory, and over an existing file.
    assert storage("folder", "a.txt") == fileio.copyfile(storage("a.txt"), storage("folder"), args)
    fileio.put(b"3", storage("a.txt"), args)
    fileio.copyfile(storage("a.txt"), storage("folder"), args)
    assert b"3" == fileio.get(storage("folder", "a.txt"), args)
    with pytest.raises(shutil.SameFileError):
        fileio.copyfile(storage("a.txt"), storage("a.txt"), args)

    own = tmp_path / "own"
    own.mkdir()
    assert str(own / "a.txt") == str(
        fileio.copyfile_to_local(storage("a.txt"), str(own / "a.txt"), args)
    )
    fileio.copyfile_to_local(storage("folder", "b.txt"), str(own), args)
    assert ["a.txt", "b.txt"] == sorted(os.listdir(own))
    (own / "up.txt").write_bytes(b"up")
    assert storage("up.txt") == fileio.copyfile_from_local(
        str(own / "up.txt"), storage("up.txt"), args
    )
    assert storage("folder", "up.txt") == fileio.copyfile_from_local(
        str(own / "up.txt"), storage("folder"), args
    )
    assert b"up" == fileio.get(storage("folder", "up.txt"), args)


def test_trees_are_copied(storage: Storage, tmp_path: Path) -> None:
    args = storage.args
    for name in ("a.txt", "b/c.txt", "b/d/e.txt"):
        fileio.put(name.encode(), storage("tree", *name.split("/")), args)
    assert storage("copy") == fileio.copytree(storage("tree"), storage("copy"), args)
    assert b"b/d/e.txt" == fileio.get(storage("copy", "b", "d", "e.txt"), args)
    with pytest.raises(FileExistsError):
        fileio.copytree(storage("tree"), storage("copy"), args)
    own = str(tmp_path / "own")
    assert own == fileio.copytree_to_local(storage("tree"), own, args)
    found = sorted(fileio.list_dir_or_file(own, list_dir=False, recursive=True))
    assert ["a.txt", "b/c.txt", "b/d/e.txt"] == found
    assert storage("up") == fileio.copytree_from_local(own, storage("up"), args)
    assert b"b/c.txt" == fileio.get(storage("up", "b", "c.txt"), args)
    with pytest.raises(FileExistsError):
        fileio.copytree_from_local(own, storage("up"), args)
    with pytest.raises((NotADirectoryError, FileNotFoundError)):
        fileio.copytree(storage("absent"), storage("new"), args)


def test_what_cannot_be_linked_is_copied(storage: Storage) -> None:
    args = storage.args
    fileio.put(b"1", storage("tree", "a.txt"), args)
    linked = fileio.get_file_backend(storage.root, backend_args=args).allow_symlink
    file_linked = fileio.copy_if_symlink_fails(storage("tree", "a.txt"), storage("b.txt"), args)
    assert linked == file_linked
    assert b"1" == fileio.get(storage("b.txt"), args)
    assert linked == fileio.copy_if_symlink_fails(storage("tree"), storage("tree2"), args)
    assert b"1" == fileio.get(storage("tree2", "a.txt"), args)


def test_files_and_trees_are_removed(storage: Storage) -> None:
    args = storage.args
    for name in ("a.txt", "b.txt"):
        fileio.put(b"1", storage("tree", name), args)
    fileio.remove(storage("tree", "a.txt"), args)
    assert not fileio.exists(storage("tree", "a.txt"), args)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        fileio.remove(storage("tree", "a.txt"), args)
    with pytest.raises(IsADirectoryError, match="filepath should be a file"):
        fileio.remove(storage("tree"), args)
    fileio.rmtree(storage("tree"), args)
    assert not fileio.exists(storage("tree"), args)


def listing(storage: Storage, **kwargs: Any) -> set[str]:
    return set(fileio.list_dir_or_file(storage.root, backend_args=storage.args, **kwargs))


def test_directories_are_listed(storage: Storage) -> None:
    for name in ("1.txt", ".hidden", "b/2.json", "b/c/3.txt"):
        fileio.put(b"1", storage(*name.split("/")), storage.args)
    assert {"1.txt", "b"} == listing(storage)
    assert {"1.txt"} == listing(storage, list_dir=False)
    assert {"b"} == listing(storage, list_file=False)
    assert {"1.txt", "b", "b/2.json", "b/c", "b/c/3.txt"} == listing(storage, recursive=True)
    assert {"1.txt", "b/c/3.txt"} == listing(storage, list_dir=False, suffix=".txt", recursive=True)
    assert {"1.txt", "b/2.json", "b/c/3.txt"} == listing(
        storage, list_dir=False, suffix=(".txt", ".json"), recursive=True
    )
    assert {"b", "b/c"} == listing(storage, list_file=False, recursive=True)
    with pytest.raises(TypeError, match="`suffix` should be None when `list_dir` is True"):
        listing(storage, suffix=".txt")
    with pytest.raises(TypeError, match="`suffix` must be a string or tuple of strings"):
        listing(storage, list_dir=False, suffix=1)


def test_what_others_write_is_seen(storage: Storage) -> None:
    # Listings must not be cached: another process writes, too.
    assert not fileio.exists(storage("later.txt"), storage.args)
    fileio.put(b"1", storage("first.txt"), storage.args)
    assert {"first.txt"} == listing(storage)
    other = fileio.get_file_backend(storage.root, backend_args=storage.args)
    other.put(b"1", storage("later.txt"))
    assert {"first.txt", "later.txt"} == listing(storage)


# This machine


def test_a_local_file_is_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    fileio.put(b"old", path)
    events: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), real_fsync(fd))[1])
    monkeypatch.setattr(
        os, "replace", lambda a, b: (events.append("replace"), real_replace(a, b))[1]
    )
    fileio.put(b"new", path)
    assert ["fsync", "replace", "fsync"] == events
    assert b"new" == path.read_bytes()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    fileio.put(b"old", path)

    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        fileio.put(b"new", path)
    monkeypatch.undo()
    assert b"old" == path.read_bytes()
    assert ["a.txt"] == os.listdir(tmp_path)


def test_a_replaced_file_keeps_its_mode_and_a_link_its_target(tmp_path: Path) -> None:
    path, link = tmp_path / "a.txt", tmp_path / "link"
    fileio.put(b"old", path)
    assert 0o777 & ~os.umask(os.umask(0o22)) & 0o666 == stat.S_IMODE(path.stat().st_mode) & 0o666
    path.chmod(0o640)
    link.symlink_to(path)
    fileio.put(b"new", link)
    assert link.is_symlink()
    assert b"new" == path.read_bytes()
    assert 0o640 == stat.S_IMODE(path.stat().st_mode)


def test_what_is_no_regular_file_is_written_to(tmp_path: Path) -> None:
    fileio.put(b"gone", "/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_paths_may_be_path_objects(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    fileio.put_text("x", path)
    assert "x" == fileio.get_text(path)
    assert str(tmp_path / "b" / "c") == str(fileio.join_path(tmp_path, "b", Path("c")))
    assert ["a.txt"] == list(fileio.list_dir_or_file(tmp_path))
    with fileio.get_local_path(path) as local:
        assert str(path) == str(local)


def test_a_dangling_link_can_be_removed(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "absent")
    fileio.remove(link)
    assert [] == os.listdir(tmp_path)


# Web servers


def test_web_pages_are_read(web: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = web
    (folder / "a.txt").write_text("hello")
    (folder / "d.json").write_text('{"a": 1}')
    url = f"{address}/a.txt"
    assert isinstance(fileio.get_file_backend(url), HTTPBackend)
    assert b"hello" == fileio.get(url)
    assert "hello" == fileio.get_text(url)
    assert b"hello" == fileio.get(f"{address}/moved")
    assert {"a": 1} == fileio.load(f"{address}/d.json?download=1#part")
    assert (True, True, False) == (fileio.exists(url), fileio.isfile(url), fileio.isdir(url))
    assert not fileio.exists(f"{address}/absent")
    assert url == fileio.join_path(address + "/", "/a.txt")
    with pytest.raises(FileNotFoundError, match="the server answers 404"):
        fileio.get(f"{address}/absent")
    with fileio.get_local_path(f"{address}/d.json?x=1") as path:
        assert '{"a": 1}' == Path(path).read_text()
        assert str(path).endswith(".json")
    assert not os.path.exists(path)
    target = fileio.copyfile_to_local(url, tmp_path)
    assert "hello" == Path(target).read_text()
    assert tmp_path / "a.txt" == Path(target)
    with pytest.raises(NotImplementedError, match="can be read only"):
        fileio.put(b"", url)


def test_headers_are_sent_and_not_shown(web: tuple[str, Path]) -> None:
    address, _ = web
    with pytest.raises(urllib.error.HTTPError) as caught:
        fileio.get(f"{address}/secret")
    caught.value.close()
    backend = HTTPBackend(headers={"Authorization": "Bearer key"})
    assert b"hidden" == backend.get(f"{address}/secret")
    assert "key" not in repr(backend)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/a", "/etc/passwd"])
def test_only_web_addresses_are_opened(url: str) -> None:
    with pytest.raises(ValueError, match="must start with http:// or https://"):
        HTTPBackend().get(url)


def test_a_web_server_cannot_redirect_to_a_file(web: tuple[str, Path]) -> None:
    with pytest.raises(urllib.error.HTTPError, match="not allowed") as caught:
        fileio.get(f"{web[0]}/to-file")
    caught.value.close()


# S3


def test_presigned_links_work_without_credentials(s3: dict[str, Any]) -> None:
    fileio.put(b"shared", "s3://bucket/x", s3)
    link = fileio.generate_presigned_url("s3://bucket/x", expires_in=60, backend_args=s3)
    assert b"shared" == fileio.get(link)
    with pytest.raises(NotImplementedError, match="no presigned links"):
        fileio.generate_presigned_url("/a/b")


def test_removing_a_whole_bucket_leaves_the_bucket(s3: dict[str, Any]) -> None:
    fileio.put(b"1", "s3://bucket/a/b", s3)
    fileio.rmtree("s3://bucket", s3)
    assert [] == list(fileio.list_dir_or_file("s3://bucket", backend_args=s3))
    fileio.put(b"1", "s3://bucket/a/b", s3)


def test_files_are_copied_between_storages_of_one_back_end(s3: dict[str, Any]) -> None:
    backend = FsspecBackend()
    backend.put(b"1", "memory://x/a")
    assert "memory://y/a" == backend.copyfile("memory://x/a", "memory://y/a")
    assert b"1" == backend.get("memory://y/a")


def test_petrel_names_clusters(s3: dict[str, Any], tmp_path: Path) -> None:
    conf = tmp_path / "petrel.conf"
    host = s3["endpoint_url"].removeprefix("http://")
    conf.write_text(f"[two]\naccess_key = key\nsecret_key = secret\nhost_base = {host}\n")
    backend = PetrelBackend(conf_path=str(conf), enable_mc=False)
    backend.put(b"1", "two:petrel://bucket/a.txt")
    assert b"1" == backend.get("two:s3://bucket/a.txt")
    assert isinstance(fileio.get_file_backend("two:petrel://bucket/a"), PetrelBackend)
    with pytest.raises(ValueError, match=r"in the cluster 'three'.* it has \['two'\]"):
        backend.get("three:s3://bucket/a.txt")


def test_a_path_mapping_is_a_dict() -> None:
    with pytest.raises(TypeError, match="path_mapping must be a dict, but got <class 'list'>"):
        PetrelBackend(path_mapping=["a"])  # type: ignore[arg-type]  # on purpose


def test_a_path_is_mapped_once() -> None:
    backend = MemoryBackend(path_mapping={"a/": "b/", "b/": "c/"})
    assert "b/x" == backend.join_path("a/x")
    assert "c/x" == backend.join_path("b/x")


# LMDB


@pytest.fixture(params=["directory", "file"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    import lmdb

    path = tmp_path / "data.lmdb"
    with (
        lmdb.open(str(path), subdir=request.param == "directory") as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"baboon", b"picture")
        transaction.put("grüße".encode(), "grüße".encode())
    return path


def test_lmdb_values_are_read(database: Path) -> None:
    args = {"backend": "lmdb", "db_path": str(database)}
    assert b"picture" == fileio.get("baboon", args)
    assert b"picture" == fileio.get(Path("baboon"), args)
    assert "grüße" == fileio.get_text("grüße", backend_args=args)
    assert fileio.exists("baboon", args)
    assert not fileio.exists("absent", args)
    with pytest.raises(FileNotFoundError, match="has no key 'absent'"):
        fileio.get("absent", args)
    # Several back ends of one file, which LMDB itself forbids.
    assert b"picture" == LmdbBackend(database).get("baboon") == LmdbBackend(database).get("baboon")


def _read_in_child(backend: LmdbBackend) -> bytes:
    return backend.get("baboon")


def test_lmdb_works_in_worker_processes(database: Path) -> None:
    import multiprocessing

    backend = LmdbBackend(database)
    assert b"picture" == backend.get("baboon")
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert b"picture" == pool.apply(_read_in_child, (backend,))
    assert b"picture" == backend.get("baboon")
    assert b"picture" == pickle.loads(pickle.dumps(backend)).get("baboon")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ImportError, match=r"pip install 'mmx\[lmdb\]'"):
        LmdbBackend("x")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ImportError, match=r"'gs://' needs.* pip install 'mmx\[gcs\]'"):
        fileio.get("gs://bucket/x")
    with pytest.raises(ImportError, match="Please install memcached"):
        MemcachedBackend("a", "b")


def test_memcached_reads_by_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    client = types.SimpleNamespace(Get=lambda key, buffer: buffer.append(key.encode()))
    mc = types.SimpleNamespace(
        MemcachedClient=types.SimpleNamespace(GetInstance=lambda servers, conf: client),
        pyvector=list,
        ConvertBuffer=lambda buffer: memoryview(buffer[-1]),
    )
    monkeypatch.setitem(sys.modules, "mc", mc)
    backend = MemcachedBackend("servers", "client", sys_path="/somewhere")
    sys.path.remove("/somewhere")
    assert b"key" == backend.get("key")
    assert "key" == backend.get_text(Path("key"))


# Paths that stay inside


@pytest.mark.parametrize(
    "part", ["../x", "a/../../x", "/etc/passwd", "..", "a\\..\\..\\x", "C:\\x", "\\x"]
)
def test_parts_that_lead_out_are_refused(part: str, tmp_path: Path) -> None:
    with pytest.raises(fileio.UnsafePathError, match="leads out of") as caught:
        safe_join(tmp_path, part)
    assert part == caught.value.path


def test_links_that_lead_out_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "in").symlink_to(root)
    assert str(root / "a") == safe_join(root, "in", "a")
    with pytest.raises(fileio.UnsafePathError, match="through a symbolic link"):
        safe_join(root, "out", "x")
    with pytest.raises(fileio.UnsafePathError, match="null character"):
        safe_join(root, "a\0b")


def test_a_remote_name_cannot_escape_the_local_directory(
    s3: dict[str, Any], tmp_path: Path
) -> None:
    import fsspec

    fs = fsspec.filesystem("s3", **s3)
    fs.pipe_file("bucket/tree/good.txt", b"1")
    fs.pipe_file("bucket/tree/../evil.txt", b"1")
    with pytest.raises(fileio.UnsafePathError, match="leads out of"):
        fileio.copytree_to_local("s3://bucket/tree", tmp_path / "own" / "deep", s3)
    assert not (tmp_path / "own" / "evil.txt").exists()


def test_no_path_escapes_the_root_of_a_back_end() -> None:
    backend = MemoryBackend(root="memory://safe/place")
    backend.put(b"1", "a.txt")
    assert b"1" == backend.get("memory://safe/place/a.txt")
    assert ["a.txt"] == list(backend.list_dir_or_file("memory://safe/place"))
    for path in (
        "../x",
        "a/../../x",
        "memory://safe/other",
        "memory://safe/place/../x",
        "memory://safe/placebo/x",
        "/etc/passwd",
        "file:///etc/passwd",
    ):
        with pytest.raises(fileio.UnsafePathError):
            backend.get(path)


# What was downloaded is what was meant

HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


@pytest.mark.parametrize("expected", [HELLO, HELLO.upper(), HELLO[:8], f"sha256:{HELLO}"])
def test_a_right_hash_passes(expected: str, web: tuple[str, Path], tmp_path: Path) -> None:
    (web[1] / "a.txt").write_text("hello")
    url = f"{web[0]}/a.txt"
    assert b"hello" == fileio.get(url, sha256=expected)
    with fileio.get_local_path(url, sha256=expected) as path:
        assert "hello" == Path(path).read_text()
    fileio.copyfile_to_local(url, tmp_path / "b.txt", sha256=expected)
    assert "hello" == (tmp_path / "b.txt").read_text()
    fileio.copyfile_to_local(url, tmp_path, sha256=expected)
    assert "hello" == (tmp_path / "a.txt").read_text()


def test_a_wrong_hash_is_refused(web: tuple[str, Path], tmp_path: Path) -> None:
    (web[1] / "a.txt").write_text("hello!")
    url = f"{web[0]}/a.txt"
    with pytest.raises(fileio.HashMismatchError, match=r"but 2cf24dba.* was expected") as caught:
        fileio.get(url, sha256=HELLO)
    assert url == caught.value.path
    with pytest.raises(fileio.HashMismatchError), fileio.get_local_path(url, sha256=HELLO):
        pass
    (tmp_path / "b.txt").write_text("old")
    with pytest.raises(fileio.HashMismatchError):
        fileio.copyfile_to_local(url, tmp_path / "b.txt", sha256=HELLO)
    assert "old" == (tmp_path / "b.txt").read_text()
    with pytest.raises(ValueError, match="8 to 64 hexadecimal digits"):
        fileio.get(url, sha256="abc")


# Prefixes


@pytest.mark.parametrize(
    ("uri", "prefix"),
    [
        ("/a/b", ""),
        ("a", ""),
        ("C:\\a", ""),
        ("s3://b/k", "s3"),
        ("cluster:s3://b/k", "s3"),
        (Path("s3://b/k"), "s3"),
        (Path("/a/b"), ""),
        ("http://host:80/a", "http"),
    ],
)
def test_the_prefix_of_a_path(uri: Any, prefix: str) -> None:
    assert prefix == parse_uri_prefix(uri)


def test_a_prefix_of_text_only() -> None:
    with pytest.raises(TypeError, match="a path must be a str or pathlib"):
        fileio.get_file_backend(3)  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    ("uri", "cls"),
    [
        ("a/b", LocalBackend),
        ("s3://a/b", S3Backend),
        ("petrel://a/b", PetrelBackend),
        ("https://a/b", HTTPBackend),
        ("memory://a/b", MemoryBackend),
        ("gs://a/b", FsspecBackend),
        ("hf://a/b", FsspecBackend),
        ("sftp://a/b", FsspecBackend),
    ],
)
def test_the_prefix_chooses_the_back_end(uri: str, cls: type) -> None:
    assert cls is type(fileio.get_file_backend(uri))
    assert cls.__name__ == fileio.get_file_backend(uri).name


def test_paths_without_any_known_prefix() -> None:
    with pytest.raises(
        fileio.UnknownBackendError,
        match=r"no storage back end knows the prefix 's4' \(did you mean",
    ):
        fileio.get("s4://a/b")
    with pytest.raises(KeyError, match="has no prefix, so that no file system can be chosen"):
        fileio.get("a", {"backend": "fsspec"})
