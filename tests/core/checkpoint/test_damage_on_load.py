"""Damage in a checkpoint that is named by hand: found on loading, with what is whole beside it."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from mmx.checkpoint import (
    CheckpointLoader,
    CorruptCheckpointError,
    _load_checkpoint,
    find_latest_checkpoint,
    load_checkpoint,
    read_sharded,
    save_checkpoint,
    save_sharded,
    verification,
)
from mmx.checkpoint import load as load_module
from mmx.model import BaseModel
from mmx.runner import Runner


def example(value: float = 1.0) -> dict:
    return {"meta": {"epoch": 1}, "state_dict": {"weight": torch.full((64, 64), value)}}


def offset_of(path: Path, record: str) -> int:
    """Return where a record's data begin."""
    with zipfile.ZipFile(path) as archive:
        info = next(i for i in archive.infolist() if i.filename.endswith(record))
    data = path.read_bytes()
    name, extra = (
        int.from_bytes(data[info.header_offset + i : info.header_offset + i + 2], "little")
        for i in (26, 28)
    )
    return info.header_offset + 30 + name + extra


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def damage(path: Path, kind: str) -> None:
    if kind == "tensor":
        flip(path, offset_of(path, "/data/0") + 1000)
    elif kind == "hole":
        data = bytearray(path.read_bytes())
        begin = offset_of(path, "/data/0")
        data[begin + 4096 : begin + 8192] = bytes(4096)
        path.write_bytes(data)
    elif kind == "pickle":
        flip(path, offset_of(path, "data.pkl") + 40)
    elif kind == "header":  # the length of what stands before the data
        flip(path, zipfile.ZipFile(path).infolist()[1].header_offset + 28)
        with zipfile.ZipFile(path) as archive:
            header = next(i for i in archive.infolist() if i.filename.endswith("/data/0"))
        flip(path, header.header_offset + 28)
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "shifted":  # a block is missing in the middle
        data = path.read_bytes()
        begin = offset_of(path, "/data/0")
        path.write_bytes(data[: begin + 4096] + data[begin + 8192 :])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_checkpoint(example(), tmp_path / "epoch_2.pth")
    return tmp_path / "epoch_2.pth"


def loads(path: Path) -> list:
    return [
        lambda **more: CheckpointLoader.load_checkpoint(str(path), "cpu", None, **more),
        lambda **more: _load_checkpoint(path, "cpu", **more),
        lambda **more: load_checkpoint(nn.Linear(64, 64, bias=False), path, strict=True, **more),
    ]


@pytest.mark.parametrize("kind", ["pickle", "header", "truncated", "shifted"])
def test_damage_outside_of_tensors_is_found_on_every_load(file: Path, kind: str) -> None:
    damage(file, kind)
    for load in loads(file):
        with pytest.raises(CorruptCheckpointError, match=r"epoch_2\.pth is .*(damaged|truncated)"):
            load()


@pytest.mark.parametrize("kind", ["tensor", "hole", "pickle", "header", "truncated", "shifted"])
def test_with_verify_any_damage_is_found(file: Path, kind: str) -> None:
    for load in loads(file):
        load(verify=True)
    damage(file, kind)
    for load in loads(file):
        with pytest.raises(CorruptCheckpointError, match=r"epoch_2\.pth is .*(damaged|truncated)"):
            load(verify=True)


def test_without_verify_a_flipped_bit_reaches_the_weights(file: Path) -> None:
    """The negative control: mapped tensors are not read before they are used."""
    damage(file, "tensor")
    model = nn.Linear(64, 64, bias=False)
    load_checkpoint(model, file, strict=True)
    assert not torch.equal(torch.ones(64, 64), model.weight)


def test_the_error_names_the_record_and_what_is_whole(file: Path) -> None:
    damage(file, "tensor")
    with pytest.raises(CorruptCheckpointError, match="No other checkpoint") as caught:
        load_checkpoint(nn.Linear(64, 64), file, verify=True)
    assert str(file) == caught.value.filename
    assert "wrong checksum of its record" in str(caught.value)
    assert "/data/0'" in str(caught.value)
    save_checkpoint(example(), file.with_name("epoch_1.pth"))
    save_checkpoint(example(), file.with_name("epoch_3.pth"))
    damage(file.with_name("epoch_3.pth"), "tensor")
    whole = str(file.with_name("epoch_1.pth"))
    with pytest.raises(CorruptCheckpointError, match="The newest whole checkpoint") as caught:
        load_checkpoint(nn.Linear(64, 64), file, verify=True)
    assert str(caught.value).endswith(f"beside it is {whole}.")


def test_loaders_of_ones_own_are_asked_only_for_what_they_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))
    CheckpointLoader.register_scheme("old://", lambda filename, map_location=None: filename)
    CheckpointLoader.register_scheme(
        "new://", lambda filename, map_location=None, verify=False: (filename, verify)
    )
    CheckpointLoader.register_scheme("type://", dict.fromkeys)
    assert "old://a" == CheckpointLoader.load_checkpoint("old://a", None, None, verify=True)
    assert ("new://a", True) == CheckpointLoader.load_checkpoint("new://a", None, None, True)
    assert ("new://a", False) == CheckpointLoader.load_checkpoint("new://a", None, None)
    assert CheckpointLoader.load_checkpoint("type://a", None, None, verify=True)


def test_what_a_file_back_end_brings_can_be_verified() -> None:
    from mmx.fileio import get, put

    save_checkpoint(example(), "memory://run/damaged.pth")
    data = bytearray(get("memory://run/damaged.pth"))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        info = next(i for i in archive.infolist() if i.filename.endswith("/data/0"))
    data[info.header_offset + 2000] ^= 1
    put(bytes(data), "memory://run/damaged.pth")
    _load_checkpoint("memory://run/damaged.pth")
    with pytest.raises(
        CorruptCheckpointError, match=r"memory://run/damaged\.pth is damaged: wrong"
    ):
        _load_checkpoint("memory://run/damaged.pth", verify=True)


# Folders ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("dropped", "rank_0.safetensors is missing"),
        ("cut", "rank_0.safetensors has "),
        ("rest", "wrong checksum of rest.pth"),
        ("tensor", "wrong checksum of rank_0.safetensors"),
    ],
)
def test_damage_in_a_folder_is_named(tmp_path: Path, kind: str, text: str) -> None:
    folder = tmp_path / "epoch_2.pth"
    save_sharded(example(), folder)
    save_sharded(example(), tmp_path / "epoch_1.pth")
    part = folder / "rank_0.safetensors"
    if kind == "dropped":
        part.unlink()
    elif kind == "cut":
        part.write_bytes(part.read_bytes()[:-8])
    elif kind == "rest":
        flip(folder / "rest.pth", 200)
    else:
        flip(part, part.stat().st_size - 3)
    if kind == "tensor":  # read at last, where it is asked for
        read_sharded(folder)
    for load in (read_sharded, _load_checkpoint):
        with pytest.raises(CorruptCheckpointError) as caught:
            load(folder, verify=True)
        assert f"{folder} is damaged: {text}" in str(caught.value)
        assert str(caught.value).endswith(f"beside it is {tmp_path / 'epoch_1.pth'}.")
        if kind != "tensor":
            with pytest.raises(CorruptCheckpointError, match=text):
                load(folder)


def test_of_a_folder_only_the_files_that_are_read_are_verified(tmp_path: Path) -> None:
    folder = tmp_path / "epoch_2.pth"
    save_sharded({**example(), "optimizer": {"state": {}}}, folder)
    flip(folder / "rank_0.safetensors", (folder / "rank_0.safetensors").stat().st_size - 3)
    found = read_sharded(folder, only=lambda name: name == "meta", verify=True)
    assert {"meta": {"epoch": 1}} == found


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_conversion_does_not_give_damage_fresh_checksums(tmp_path: Path, kind: str) -> None:
    from click.testing import CliRunner

    from mmx.cli.checkpoint_cmd import command

    source = tmp_path / "epoch_1.pth"
    if kind == "file":
        save_checkpoint(example(), source)
        damage(source, "tensor")
    else:
        save_sharded(example(), source)
        part = source / "rank_0.safetensors"
        flip(part, part.stat().st_size - 3)
    result = CliRunner().invoke(command, ["convert", str(source), str(tmp_path / "b.safetensors")])
    assert 1 == result.exit_code
    assert "is damaged: wrong checksum" in result.output
    assert not (tmp_path / "b.safetensors").exists()


# The runner ---------------------------------------------------------------------------------


class Net(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64, bias=False)

    def forward(self, x, mode="tensor"):
        out = self.linear(x)
        return {"loss": out.mean()} if mode == "loss" else out


def make_runner(work_dir: Path, trains: bool = True, epochs: int = 2, **more) -> Runner:
    training = dict(
        train_dataloader=dict(
            dataset=[{"x": torch.ones(64)}] * 4,
            batch_size=2,
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
    )
    return Runner(
        Net(),
        str(work_dir),
        **(training if trains else {}),
        default_hooks=dict(logger=None),
        log_level="ERROR",
        experiment_name=f"damage-{os.urandom(4).hex()}",
        **more,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work_dir = tmp_path_factory.mktemp("run")
    runner = make_runner(work_dir)
    runner.default_hooks = None
    next(h for h in runner.hooks if type(h).__name__ == "CheckpointHook").interval = 1
    runner.train()
    return work_dir


@pytest.fixture
def work_dir(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "last_checkpoint").unlink()
    return tmp_path / "run"


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_does_not_begin_from_a_damaged_file(work_dir: Path, resume: bool) -> None:
    damage(work_dir / "epoch_2.pth", "tensor")
    runner = make_runner(work_dir, load_from=str(work_dir / "epoch_2.pth"), resume=resume, epochs=3)
    with pytest.raises(CorruptCheckpointError, match=r"epoch_2\.pth is damaged: wrong") as caught:
        runner.train()
    assert f"beside it is {work_dir / 'epoch_1.pth'}." in str(caught.value)


def test_to_resume_verifies_also_where_nothing_is_trained(work_dir: Path) -> None:
    damage(work_dir / "epoch_2.pth", "tensor")
    runner = make_runner(work_dir, trains=False)
    runner.load_checkpoint(str(work_dir / "epoch_2.pth"))
    with pytest.raises(CorruptCheckpointError, match=r"epoch_2\.pth is damaged: wrong"):
        runner.resume(str(work_dir / "epoch_2.pth"))


def test_what_was_just_verified_is_not_read_twice(
    work_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verified = []
    real = load_module.verify_checkpoint

    def counted(path) -> None:
        verified.append(os.path.basename(path))
        real(path)

    monkeypatch.setattr("mmx.checkpoint.find.verify_checkpoint", counted)
    monkeypatch.setattr(verification, "verify_checkpoint", counted)
    make_runner(work_dir, resume=True, epochs=2).train()
    assert ["epoch_2.pth"] == verified
    # Of another time, or changed since, it is.
    found = find_latest_checkpoint(work_dir)
    os.utime(found, ns=(1, 1))
    _load_checkpoint(found, verify=True)
    _load_checkpoint(found, verify=True)
    assert ["epoch_2.pth"] * 4 == verified
