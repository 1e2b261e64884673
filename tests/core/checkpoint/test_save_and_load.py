import collections
import enum
import gc
import io
import os
import pickle
import resource
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from mmx.checkpoint import (
    AsyncCheckpointSaver,
    CheckpointError,
    CheckpointLoader,
    CorruptCheckpointError,
    UnsafeCheckpointError,
    _load_checkpoint,
    _load_checkpoint_with_prefix,
    find_latest_checkpoint,
    load_checkpoint,
    load_state_dict,
    remove_stale_temporaries,
    save_checkpoint,
    sharded,
    to_plain,
    verify_checkpoint,
    write_last_checkpoint,
)
from mmx.fileio import paths
from mmx.logging import MMLogger


def example() -> dict:
    torch.manual_seed(0)
    return {
        "meta": {"epoch": 3, "iter": 40, "cfg": "model = dict()"},
        "state_dict": collections.OrderedDict(weight=torch.randn(64, 64), bias=torch.randn(64)),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
        "numpy": np.float64(1.5),
        "array": np.arange(3),
    }


def assert_same(actual: dict, expected: dict) -> None:
    assert actual["meta"] == expected["meta"]
    assert actual.keys() == expected.keys()
    for key, value in expected["state_dict"].items():
        assert torch.equal(actual["state_dict"][key], value)
    assert actual["numpy"] == expected["numpy"]
    assert np.array_equal(actual["array"], expected["array"])


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    save_checkpoint(example(), tmp_path / "a" / "epoch_1.pth")
    assert_same(_load_checkpoint(tmp_path / "a" / "epoch_1.pth"), example())
    assert os.listdir(tmp_path / "a") == ["epoch_1.pth"]


def test_equal_checkpoints_give_equal_bytes(tmp_path: Path) -> None:
    save_checkpoint(example(), tmp_path / "a.pth")
    save_checkpoint(example(), tmp_path / "b.pth")
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_metadata_of_a_state_dict_survives(tmp_path: Path) -> None:
    save_checkpoint({"state_dict": nn.BatchNorm1d(2).state_dict()}, tmp_path / "a.pth")
    assert _load_checkpoint(tmp_path / "a.pth")["state_dict"]._metadata == {"": {"version": 2}}


class Colour(enum.IntEnum):
    RED = 1


class Opaque:
    pass


def test_subclasses_of_plain_types_become_plain() -> None:
    point = collections.namedtuple("point", "x y")
    plain = to_plain({"a": Colour.RED, "b": point(1, [2]), "c": collections.defaultdict(int, d=3)})
    assert plain == {"a": 1, "b": (1, [2]), "c": {"d": 3}}
    assert [type(v) for v in plain.values()] == [int, tuple, dict]


def test_other_objects_are_refused_with_their_place(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match=r"checkpoint\['meta'\]\['who'\]\[1\] is an object of type .*Opaque"
    ):
        save_checkpoint({"meta": {"who": [1, Opaque()]}}, tmp_path / "a.pth")
    assert os.listdir(tmp_path) == []


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="array of Python objects"):
        save_checkpoint({"x": np.array([{}], dtype=object)}, tmp_path / "a.pth")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_that_would_run_code_is_refused(tmp_path: Path, legacy: bool) -> None:
    torch.save(
        {"state_dict": {}, "meta": Bomb(tmp_path / "ran")},
        tmp_path / "bomb.pth",
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(
        UnsafeCheckpointError, match=r"asks for the Python object 'posix\.mkdir'"
    ) as caught:
        _load_checkpoint(tmp_path / "bomb.pth")
    assert caught.value.global_name == "posix.mkdir"
    assert not (tmp_path / "ran").exists()
    # The control: the bomb works.
    torch.load(tmp_path / "bomb.pth", weights_only=False)
    assert (tmp_path / "ran").exists()


class MethodOf:
    """Pickled as Python 3 pickles a method that belongs to a class."""

    def __init__(self, owner: type, name: str) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self) -> tuple:
        return getattr, (self.owner, self.name)


def test_the_curve_that_mmengine_saves_with_one_cycle_schedulers_is_read_as_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "mmengine.optim.scheduler.param_scheduler"
    owner = type("OneCycleParamScheduler", (), {"__module__": place})
    module = types.ModuleType(place)
    module.OneCycleParamScheduler = owner  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, place, module)
    state = {"anneal_func": MethodOf(owner, "_annealing_linear"), "last_step": 3}
    torch.save({"state_dict": {}, "param_schedulers": [state]}, tmp_path / "a.pth")
    loaded = _load_checkpoint(tmp_path / "a.pth")["param_schedulers"][0]
    assert {"anneal_func": "_annealing_linear", "last_step": 3} == loaded
    torch.save({"x": MethodOf(collections.OrderedDict, "fromkeys")}, tmp_path / "b.pth")
    with pytest.raises(UnsafeCheckpointError, match="getattr"):
        _load_checkpoint(tmp_path / "b.pth")


def test_a_bare_pickle_bomb_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bomb.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "ran"), protocol=2))
    with pytest.raises(CheckpointError):
        _load_checkpoint(tmp_path / "bomb.pth")
    assert not (tmp_path / "ran").exists()


def test_a_config_inside_a_checkpoint_stays_text(tmp_path: Path) -> None:
    save_checkpoint(
        {"meta": {"cfg": "import os; os.mkdir('ran')"}, "state_dict": {}}, tmp_path / "a.pth"
    )
    assert _load_checkpoint(tmp_path / "a.pth")["meta"]["cfg"] == "import os; os.mkdir('ran')"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth can not be found"):
        _load_checkpoint(tmp_path / "nowhere.pth")


def damage(path: Path, kind: str) -> None:
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        record = max(archive.infolist(), key=lambda info: info.file_size)
    start = record.header_offset + 200 + record.file_size // 2
    if kind == "bit":
        data[start] ^= 1
    elif kind == "hole":
        data[start : start + 512] = bytes(512)
    elif kind == "truncated":
        del data[len(data) // 2 :]
    elif kind == "empty":
        data.clear()
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["bit", "hole", "truncated", "empty"])
def test_damage_is_detected(tmp_path: Path, kind: str) -> None:
    save_checkpoint(example(), tmp_path / "a.pth")
    verify_checkpoint(tmp_path / "a.pth")
    damage(tmp_path / "a.pth", kind)
    with pytest.raises(CorruptCheckpointError, match=r"a\.pth is damaged"):
        verify_checkpoint(tmp_path / "a.pth")


def test_a_truncated_file_does_not_load(tmp_path: Path) -> None:
    save_checkpoint(example(), tmp_path / "a.pth")
    damage(tmp_path / "a.pth", "truncated")
    with pytest.raises(CorruptCheckpointError, match="may be truncated or damaged"):
        _load_checkpoint(tmp_path / "a.pth")


def test_the_format_of_old_torch_loads_and_verifies(tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {"w": torch.ones(2)}},
        tmp_path / "old.pth",
        _use_new_zipfile_serialization=False,
    )
    verify_checkpoint(tmp_path / "old.pth")
    assert torch.equal(_load_checkpoint(tmp_path / "old.pth")["state_dict"]["w"], torch.ones(2))


def test_the_order_is_write_sync_rename_sync_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "replace")}

    def fsync(descriptor: int) -> None:
        kind = "directory" if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir() else "file"
        seen.append(f"fsync {kind}")
        real["fsync"](descriptor)

    def replace(source: str, target: str) -> None:
        seen.append("rename")
        real["replace"](source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    save_checkpoint(example(), tmp_path / "a.pth")
    assert seen == ["fsync file", "rename", "fsync directory"]


class FailingDisk:
    """Fails the N-th operation that durable writing makes: open, write, fsync, rename."""

    def __init__(self, fail_at: int, patch: pytest.MonkeyPatch) -> None:
        self.fail_at, self.count = fail_at, 0
        for name in ("fsync", "replace"):
            patch.setattr(os, name, self.wrap(getattr(os, name)))
        patch.setattr(paths, "open", self.wrap(self.open), raising=False)

    def wrap(self, operation: Callable) -> Callable:
        def counted(*args: object) -> object:
            self.count += 1
            if self.count == self.fail_at:
                raise OSError(28, "No space left on device")
            return operation(*args)

        return counted

    def open(self, path: Path, mode: str) -> object:
        disk = self

        class File(io.FileIO):
            def write(self, data: object) -> int:
                return disk.wrap(super().write)(data)

        return File(path, mode)


def save_error(new: dict, path: Path, fail_at: int) -> tuple[CheckpointError | None, int]:
    with pytest.MonkeyPatch.context() as patch:
        disk = FailingDisk(fail_at, patch)
        try:
            save_checkpoint(new, path)
        except CheckpointError as error:
            return error, disk.count
    return None, disk.count


def test_whichever_operation_fails_the_old_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    old, new = ({"state_dict": {"w": torch.full((3,), v)}} for v in (0.0, 1.0))
    save_checkpoint(old, path)
    error, operations = save_error(new, tmp_path / "b.pth", fail_at=0)
    assert error is None
    assert operations >= 5, "too few operations were seen for this test to mean anything"
    (tmp_path / "b.pth").unlink()
    for fail_at in range(1, operations + 1):
        error, _ = save_error(new, path, fail_at)
        assert "No space left on device" in str(error)
        # The invariant: at every point in time a whole checkpoint is there, and no rubbish beside it.
        verify_checkpoint(path)
        assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]
        # Only the last operation, the fsync of the directory, comes after the rename.
        expected = new if fail_at == operations else old
        assert torch.equal(_load_checkpoint(path)["state_dict"]["w"], expected["state_dict"]["w"])


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    save_checkpoint({"state_dict": {"w": torch.zeros(3)}}, path)
    code = f"""
import resource, signal, torch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from mmx.checkpoint import save_checkpoint, CheckpointError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint({{"state_dict": {{"w": torch.ones(1_000_000)}}}}, {str(path)!r})
except CheckpointError as error:
    print(error)
"""
    assert resource.RLIMIT_FSIZE is not None
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "could not be written" in run.stdout, run.stderr
    assert "File too large" in run.stdout
    assert "Earlier checkpoints are as they were" in run.stdout
    assert torch.equal(_load_checkpoint(path)["state_dict"]["w"], torch.zeros(3))
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    (tmp_path / f".epoch_1.pth.{child.pid}.0a1b2c3d.tmp").touch()
    (tmp_path / f".epoch_2.pth.{os.getpid()}.0a1b2c3d.tmp").touch()
    (tmp_path / ".unrelated.tmp").touch()
    assert remove_stale_temporaries(tmp_path) == [f".epoch_1.pth.{child.pid}.0a1b2c3d.tmp"]
    assert len(os.listdir(tmp_path)) == 2


class TestSafetensors:
    def test_weights_come_back(self, tmp_path: Path) -> None:
        model = nn.Linear(3, 2)
        save_checkpoint(
            {"meta": {"epoch": 2}, "state_dict": model.state_dict()}, tmp_path / "m.safetensors"
        )
        verify_checkpoint(tmp_path / "m.safetensors")
        other = nn.Linear(3, 2)
        checkpoint = load_checkpoint(other, tmp_path / "m.safetensors", strict=True)
        assert checkpoint["meta"] == {"format": "pt", "epoch": "2"}
        assert torch.equal(other.weight, model.weight)

    def test_tied_weights_are_written_under_both_names(self, tmp_path: Path) -> None:
        weight = torch.randn(2, 2)
        save_checkpoint({"state_dict": {"a": weight, "b": weight}}, tmp_path / "m.safetensors")
        state = _load_checkpoint(tmp_path / "m.safetensors")["state_dict"]
        assert torch.equal(state["a"], state["b"])

    def test_truncation_is_detected(self, tmp_path: Path) -> None:
        save_checkpoint({"state_dict": {"a": torch.randn(100)}}, tmp_path / "m.safetensors")
        data = (tmp_path / "m.safetensors").read_bytes()
        (tmp_path / "m.safetensors").write_bytes(data[:-40])
        with pytest.raises(CorruptCheckpointError, match="not a readable safetensors file"):
            verify_checkpoint(tmp_path / "m.safetensors")


class TestLatest:
    def test_there_is_none_in_an_empty_directory(self, tmp_path: Path) -> None:
        assert find_latest_checkpoint(tmp_path) is None

    def test_the_pointer_decides(self, tmp_path: Path) -> None:
        for epoch in (1, 2):
            save_checkpoint(example(), tmp_path / f"epoch_{epoch}.pth")
        write_last_checkpoint(tmp_path, str(tmp_path / "epoch_1.pth"))
        assert find_latest_checkpoint(tmp_path) == str(tmp_path / "epoch_1.pth")

    def test_a_damaged_one_is_passed_over_loudly(self, tmp_path: Path) -> None:
        log = tmp_path / "run.log"
        MMLogger.get_instance("damaged", log_file=str(log))
        for epoch in (1, 2):
            save_checkpoint(example(), tmp_path / f"epoch_{epoch}.pth")
        write_last_checkpoint(tmp_path, str(tmp_path / "epoch_2.pth"))
        damage(tmp_path / "epoch_2.pth", "bit")
        assert find_latest_checkpoint(tmp_path) == str(tmp_path / "epoch_1.pth")
        assert f"Not resuming from {tmp_path / 'epoch_2.pth'}" in log.read_text()

    def test_all_damaged_is_an_error(self, tmp_path: Path) -> None:
        save_checkpoint(example(), tmp_path / "epoch_1.pth")
        write_last_checkpoint(tmp_path, str(tmp_path / "epoch_1.pth"))
        damage(tmp_path / "epoch_1.pth", "truncated")
        with pytest.raises(
            CorruptCheckpointError, match=r"every checkpoint in .* is damaged .*epoch_1\.pth"
        ):
            find_latest_checkpoint(tmp_path)

    def test_a_run_killed_before_its_first_pointer_is_found(self, tmp_path: Path) -> None:
        save_checkpoint(example(), tmp_path / "iter_7.pth")
        assert find_latest_checkpoint(tmp_path) == str(tmp_path / "iter_7.pth")

    def test_a_moved_directory_is_found(self, tmp_path: Path) -> None:
        save_checkpoint(example(), tmp_path / "new" / "custom.pth")
        write_last_checkpoint(tmp_path / "new", str(tmp_path / "old" / "custom.pth"))
        assert find_latest_checkpoint(tmp_path / "new") == str(tmp_path / "new" / "custom.pth")


class TestAsyncSaver:
    def test_the_loop_may_go_on_changing_tensors(self, tmp_path: Path) -> None:
        weight = torch.zeros(1000)
        saver = AsyncCheckpointSaver()
        for step in range(4):
            weight.fill_(step)
            saver.save({"state_dict": {"w": weight}}, tmp_path / f"{step}.pth")
            weight.fill_(-1)
        saver.close()
        for step in range(4):
            saved = _load_checkpoint(tmp_path / f"{step}.pth")["state_dict"]["w"]
            assert torch.equal(saved, torch.full((1000,), float(step)))

    def test_tied_weights_stay_tied(self, tmp_path: Path) -> None:
        weight = torch.randn(3)
        saver = AsyncCheckpointSaver()
        saver.save({"state_dict": {"a": weight, "b": weight}}, tmp_path / "a.pth")
        saver.close()
        state = torch.load(tmp_path / "a.pth", weights_only=True)["state_dict"]
        assert state["a"].data_ptr() == state["b"].data_ptr()

    def test_shapes_may_change_between_saves(self, tmp_path: Path) -> None:
        saver = AsyncCheckpointSaver()
        saver.save({"w": torch.zeros(2)}, tmp_path / "a.pth")
        saver.save({"w": torch.ones(3, dtype=torch.float64)}, tmp_path / "b.pth")
        saver.close()
        assert torch.equal(
            _load_checkpoint(tmp_path / "b.pth")["w"], torch.ones(3, dtype=torch.float64)
        )

    def test_an_error_surfaces_at_the_next_step(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        saver = AsyncCheckpointSaver()
        saver.save({"w": torch.zeros(2)}, tmp_path / "file" / "a.pth")
        with pytest.raises(CheckpointError, match="could not be written"):
            for _ in range(1000):
                saver.check()
                torch.randn(1000).sort()
        saver.save({"w": torch.zeros(2)}, tmp_path / "b.pth")
        saver.close()
        verify_checkpoint(tmp_path / "b.pth")

    def test_what_follows_happens_after_the_file_is_there(self, tmp_path: Path) -> None:
        seen = []
        saver = AsyncCheckpointSaver()
        saver.save(
            {"w": torch.zeros(2)},
            tmp_path / "a.pth",
            then=lambda: seen.append((tmp_path / "a.pth").exists()),
        )
        saver.close()
        assert seen == [True]

    def test_the_interpreter_waits_for_the_last_save(self, tmp_path: Path) -> None:
        code = f"""
import torch
from mmx.checkpoint import AsyncCheckpointSaver
AsyncCheckpointSaver().save({{"w": torch.zeros(5_000_000)}}, {str(tmp_path / "a.pth")!r})
"""
        subprocess.run([sys.executable, "-c", code], check=True)
        verify_checkpoint(tmp_path / "a.pth")


class TestNothingIsKept:
    """What was loaded or saved goes at once: a file that is mapped keeps its room on a full disk."""

    @pytest.fixture(autouse=True)
    def _no_garbage_collection(self) -> Iterator[None]:
        gc.disable()
        yield
        gc.enable()

    def test_weights_that_a_module_took_up(self) -> None:
        state = nn.Linear(2, 2).state_dict()
        gone = StorageWeakRef(state["weight"].untyped_storage())
        load_state_dict(nn.Linear(2, 2), state)
        del state
        assert gone.expired()

    def test_a_checkpoint_that_is_being_saved(self, tmp_path: Path) -> None:
        gone = []
        saver = AsyncCheckpointSaver()
        for _ in range(2):
            tensors = {"state_dict": {"w": torch.zeros(3)}}
            gone.append(StorageWeakRef(tensors["state_dict"]["w"].untyped_storage()))
            saver.save(tensors, str(tmp_path / "a.pth"))
            del tensors
        saver.close()
        assert all(one.expired() for one in gone)

    def test_a_folder_that_was_written_and_read(self, tmp_path: Path) -> None:
        tensors = {"state_dict": {"w": torch.ones(3)}, "optimizer": {"state": [torch.zeros(2)]}}
        gone = [StorageWeakRef(tensors["state_dict"]["w"].untyped_storage())]
        sharded.write_folder(tensors, tmp_path / "folder")
        del tensors
        loaded = sharded.read_sharded(tmp_path / "folder")
        gone.append(StorageWeakRef(loaded["state_dict"]["w"].untyped_storage()))
        del loaded
        assert all(one.expired() for one in gone)

    def test_the_file_that_a_run_resumed_from(self, tmp_path: Path) -> None:
        save_checkpoint({"state_dict": nn.Linear(64, 64).state_dict()}, tmp_path / "a.pth")
        module = nn.Linear(64, 64)
        load_checkpoint(module, tmp_path / "a.pth")
        assert str(tmp_path / "a.pth") not in Path("/proc/self/maps").read_text()


class TestLoader:
    @pytest.fixture(autouse=True)
    def _restore(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))

    def test_a_scheme_of_ones_own(self) -> None:
        @CheckpointLoader.register_scheme(prefixes="mine://")
        def load_from_mine(filename: str, map_location: object = None) -> dict:
            return {"asked": filename}

        assert CheckpointLoader.load_checkpoint("mine://x") == {"asked": "mine://x"}

    def test_a_taken_scheme_needs_force(self) -> None:
        with pytest.raises(KeyError, match="already registered"):
            CheckpointLoader.register_scheme("http://", lambda f, m: None)
        CheckpointLoader.register_scheme("http://", lambda f, m: 1, force=True)

    def test_prefixes_must_be_text(self) -> None:
        with pytest.raises(TypeError, match="prefixes must be a str, list or tuple"):
            CheckpointLoader.register_scheme({"a"}, lambda f, m: None)

    def test_file_backends_of_other_addresses_are_used(self) -> None:
        save_checkpoint({"state_dict": {"w": torch.ones(2)}}, "memory://run/a.pth")
        assert torch.equal(_load_checkpoint("memory://run/a.pth")["state_dict"]["w"], torch.ones(2))

    def test_without_torchvision_its_scheme_says_what_to_install(self) -> None:
        pytest.importorskip("torch")
        if "torchvision" in sys.modules:
            pytest.skip("torchvision is installed")
        with pytest.raises(ImportError, match="pip install torchvision"):
            _load_checkpoint("torchvision://resnet18")


def test_a_prefix_picks_a_part(tmp_path: Path) -> None:
    save_checkpoint(
        {"state_dict": {"backbone.w": torch.ones(1), "head.w": torch.zeros(1)}}, tmp_path / "a.pth"
    )
    part = _load_checkpoint_with_prefix("backbone", tmp_path / "a.pth")
    assert dict(part) == {"w": torch.ones(1)}
    with pytest.raises(
        ValueError, match=r"neck\. is not in the pretrained model .* start with backbone, head"
    ):
        _load_checkpoint_with_prefix("neck.", tmp_path / "a.pth")
