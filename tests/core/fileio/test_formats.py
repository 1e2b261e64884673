"""Reading and writing objects and tables."""

from __future__ import annotations

import datetime
import enum
import io
import json
import os
import pickle
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import torch

from mmx import fileio

PLAIN = {"a": [1, 2.5, None, True], "b": {"c": "grüße"}, "d": -(2**40)}


@pytest.mark.parametrize("suffix", ["json", "yaml", "yml", "pkl", "pickle"])
@pytest.mark.parametrize("make", [str, Path])
def test_plain_data_is_written_and_read(suffix: str, make: Any, tmp_path: Path) -> None:
    path = make(tmp_path / "new" / f"x.{suffix}")
    assert fileio.dump(PLAIN, path) is None
    assert PLAIN == fileio.load(path)
    assert PLAIN == fileio.load(path, file_format=suffix)
    # By open files, by text, and by a handler itself.
    mode = "b" if suffix.startswith("p") else ""
    with open(path, "r" + mode) as file:
        assert PLAIN == fileio.load(file, file_format=suffix)
    text = fileio.dump(PLAIN, file_format=suffix)
    buffer: Any = io.BytesIO() if mode else io.StringIO()
    fileio.dump(PLAIN, buffer, file_format=suffix)
    assert text == buffer.getvalue()
    from mmx.fileio.handlers import file_handlers

    file_handlers[suffix].dump_to_path(PLAIN, path)
    assert PLAIN == file_handlers[suffix].load_from_path(path)


def test_toml_is_written_and_read(tmp_path: Path) -> None:
    data = {"a": 1, "b": {"c": [1.5, "x"]}, "when": datetime.date(2026, 1, 2)}
    fileio.dump(data, tmp_path / "x.toml")
    assert data == fileio.load(tmp_path / "x.toml")
    assert data == fileio.load(io.BytesIO((tmp_path / "x.toml").read_bytes()), file_format="toml")
    with pytest.raises(TypeError, match="a TOML file is a dict at its top, but got <class 'list'>"):
        fileio.dump([1], file_format="toml")


def test_arrays_are_written_and_read(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    fileio.dump(array, tmp_path / "x.npy")
    read = fileio.load(tmp_path / "x.npy")
    assert (array.dtype, array.tolist()) == (read.dtype, read.tolist())
    assert fileio.dump([1, 2], file_format="npy").startswith(b"\x93NUMPY")
    with pytest.raises(ValueError, match="allow_pickle=False"):
        fileio.dump(np.array([{}], dtype=object), file_format="npy")
    with open(tmp_path / "evil.npy", "wb") as file:
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        fileio.load(tmp_path / "evil.npy", allow_pickle=True)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: fileio.load("a.txt"), TypeError, "Unsupported format: txt; known are json, npy"),
        (lambda: fileio.load(io.StringIO()), TypeError, "Unsupported format: None"),
        (
            lambda: fileio.load(5, "json"),
            TypeError,
            '"file" must be a filepath str or a file-object',
        ),
        (lambda: fileio.dump(1), ValueError, "file_format must be specified since file is None"),
        (lambda: fileio.dump(1, "a.txt"), TypeError, "Unsupported format: txt"),
        (
            lambda: fileio.dump(1, 5, "json"),
            TypeError,
            '"file" must be a filename str or a file-object',
        ),
        (
            lambda: fileio.dump(object(), None, "json"),
            TypeError,
            "<class 'object'> is unsupported for json dump",
        ),
        (
            lambda: fileio.dump(object(), None, "yaml"),
            TypeError,
            "<class 'object'> is unsupported for yaml dump",
        ),
    ],
)
def test_wrong_files_and_formats_are_refused(call: Any, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        call()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    fileio.dump([1], path)
    with pytest.raises(TypeError):
        fileio.dump([1, object()], path)
    assert [1] == fileio.load(path)


# JSON


def test_json_writes_sets_ranges_and_numpy() -> None:
    data = {"s": {1}, "r": range(2), "a": np.ones((1, 2)), "n": np.float64(0.5), "i": np.int64(3)}
    assert '{"s": [1], "r": [0, 1], "a": [[1.0, 1.0]], "n": 0.5, "i": 3}' == fileio.dump(
        data, file_format="json"
    )
    assert '{\n  "a": 1\n}' == fileio.dump({"a": 1}, file_format="json", indent=2)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    "text",
    ['{"a": NaN, "b": [Infinity]}', '{"a": 123456789012345678901234567890}', '["\\ud800"]', "3"],
)
def test_json_is_read_as_the_standard_library_reads_it(
    text: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fast:
        monkeypatch.setitem(sys.modules, "orjson", None)
    assert repr(json.loads(text)) == repr(fileio.load(io.StringIO(text), "json"))


def test_json_errors_say_where() -> None:
    with pytest.raises(json.JSONDecodeError, match="line 2 column 1"):
        fileio.load(io.StringIO('{"a":\n}'), "json")


def test_json_takes_the_arguments_of_the_standard_library() -> None:
    assert {"a": "1.5"} == fileio.load(io.StringIO('{"a": 1.5}'), "json", parse_float=str)


# YAML


class Colour(enum.StrEnum):
    RED = "red"


def test_yaml_writes_other_containers_as_plain_ones() -> None:
    data = {
        "t": (1, 2),
        "o": OrderedDict(b=1),
        "d": defaultdict(list, a=[1]),
        "n": np.float32(0.5),
        "a": np.arange(2),
        "p": PurePosixPath("a/b"),
        "e": Colour.RED,
        "r": range(2),
    }
    assert {
        "t": [1, 2],
        "o": {"b": 1},
        "d": {"a": [1]},
        "n": 0.5,
        "a": [0, 1],
        "p": "a/b",
        "e": "red",
        "r": [0, 1],
    } == fileio.load(io.StringIO(fileio.dump(data, file_format="yaml")), "yaml")


def test_yaml_reads_tuples_of_older_files() -> None:
    assert (1, [2]) == fileio.load(io.StringIO("!!python/tuple [1, [2]]"), "yaml")


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [echo]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!!python/object/new:os.system [echo]",
    ],
)
def test_yaml_runs_no_code(text: str) -> None:
    import yaml

    with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
        fileio.load(io.StringIO(text), "yaml")


# Pickles


class Own:
    def __init__(self, value: int) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Own) and other.value == self.value


class Bomb:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def roundtrip(obj: Any, protocol: int = 2) -> Any:
    return fileio.load(io.BytesIO(pickle.dumps(obj, protocol)), "pkl")


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(
    "obj",
    [
        {"a": (1, 2.5, None, True, "x", b"y", 2**80, 1 + 2j)},
        {1, 2},
        frozenset([1]),
        bytearray(b"1"),
        range(3),
        slice(1, 2, None),
        OrderedDict(a=1),
        defaultdict(list, a=[1]),
        Counter("aab"),
        deque([1], 3),
        datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        datetime.timedelta(1),
        Path("a/b"),
        PurePosixPath("a"),
        PureWindowsPath("a"),
        np.float32(1.5),
        np.datetime64("2026-01-02"),
        np.dtype("int8"),
        torch.Size([1, 2]),
        torch.device("cpu"),
        torch.float16,
    ],
    ids=repr,
)
def test_plain_data_needs_no_trust(obj: Any, protocol: int) -> None:
    read = roundtrip(obj, protocol)
    assert obj == read
    assert type(obj) is type(read)


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(
    "array",
    [np.arange(6).reshape(2, 3), np.array(["a", "bc"]), np.array([None, {"a": 1}]), np.ones(0)],
)
def test_arrays_need_no_trust(array: Any, protocol: int) -> None:
    read = roundtrip({"x": array}, protocol)["x"]
    assert (array.dtype, array.tolist()) == (read.dtype, read.tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64])
def test_tensors_need_no_trust(dtype: torch.dtype) -> None:
    tensor = torch.ones(2, 3, dtype=dtype).t()
    read = roundtrip([tensor, torch.nn.Parameter(torch.ones(1))])
    assert torch.equal(tensor, read[0])
    assert dtype == read[0].dtype
    assert isinstance(read[1], torch.nn.Parameter)


def test_data_elements_need_no_trust() -> None:
    from mmx.structures import InstanceData

    data = InstanceData(metainfo={"id": 1}, labels=torch.arange(3))
    read = roundtrip(data)
    assert (1, [0, 1, 2]) == (read.id, read.labels.tolist())


@pytest.mark.parametrize(
    ("obj", "name"),
    [
        (Own(1), "Own"),
        (Bomb(os.system, "exit 1"), "system"),
        (Bomb(eval, "1"), "builtins.eval"),
        (Bomb(getattr, dict, "mro"), "getattr"),
        (Bomb(__import__, "os"), "__import__"),
        (Bomb(torch.load, "x"), "torch.serialization.load"),
        (Bomb(np.load, "x"), "load"),
        (Bomb(print), "builtins.print"),
        (Bomb(os.unlink, "x"), "unlink"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_anything_else_needs_trust(obj: Any, name: str, protocol: int) -> None:
    with pytest.raises(
        fileio.UntrustedPickleError, match=r"pass trusted=True to load\(\)"
    ) as caught:
        roundtrip(obj, protocol)
    assert name in caught.value.wanted


@pytest.mark.parametrize(
    "code",
    [
        # Dotted names, by which protocol 4 reaches into what is allowed.
        b"\x80\x04\x8c\x05torch\x8c\x17serialization.os.system\x93.",
        b"\x80\x04\x8c\x08builtins\x8c\x0edict.__class__\x93.",
        b"cmmx.structures.base_data_element\ncopy\n.",
        b"cnumpy\nsys\n.",
        b"ctorch\nos\n.",
        b"cmmx.fileio.io\nload\n.",
        b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.",
    ],
)
def test_names_cannot_reach_beyond_plain_data(code: bytes) -> None:
    with pytest.raises((fileio.UntrustedPickleError, AttributeError)):
        fileio.load(io.BytesIO(code), "pkl")


def test_the_bytes_inside_of_a_tensor_are_checked_too() -> None:
    evil = pickle.dumps(Bomb(os.system, "exit 1"), 2)

    with pytest.raises(pickle.UnpicklingError, match=r"Unsupported|Weights only"):
        roundtrip(Bomb(torch.storage._load_from_bytes, evil))


def test_a_trusted_pickle_is_read_whole(tmp_path: Path) -> None:
    fileio.dump(Own(3), tmp_path / "x.pkl")
    assert Own(3) == fileio.load(tmp_path / "x.pkl", trusted=True)


# Tables


def test_lists_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("a 1\r\nb\n\nc\x0bd\u2028e".encode())
    for name in (path, str(path)):
        assert ["a 1", "b", "", "c\x0bd\u2028e"] == fileio.list_from_file(name)
    assert ["p/b"] == fileio.list_from_file(path, prefix="p/", offset=1, max_num=1)
    assert 4 == len(fileio.list_from_file(path, max_num=-1))
    assert [] == fileio.list_from_file(path, offset=9)
    path.write_bytes("ä".encode("latin1"))
    assert ["ä"] == fileio.list_from_file(path, encoding="latin1")


def test_dicts_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("1 cat\n2 dog cow\n3\tpig\n")
    assert {"1": "cat", "2": ["dog", "cow"], "3": "pig"} == fileio.dict_from_file(path)
    assert {1, 2, 3} == set(fileio.dict_from_file(str(path), key_type=int))
    path.write_text("1 cat\nlonely\n")
    with pytest.raises(
        ValueError, match=r"x\.txt, line 2: a key and at least one value.* but got 'lonely'"
    ):
        fileio.dict_from_file(path)
