import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from mmx.checkpoint import (
    get_state_dict,
    load_checkpoint,
    load_state_dict,
    save_checkpoint,
    unwrap,
    weights_to_cpu,
)
from mmx.logging import MMLogger
from mmx.registry import MODEL_WRAPPERS


class Net(nn.Module):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 1)
        self.norm = nn.BatchNorm2d(width)


@pytest.fixture
def wrapper() -> type[nn.Module]:
    class TestWrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    MODEL_WRAPPERS.register_module(module=TestWrapper, force=True)
    yield TestWrapper
    MODEL_WRAPPERS._module_dict.pop("TestWrapper", None)


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_wrappers_do_not_show_in_keys(wrapper: type[nn.Module]) -> None:
    net = Net()
    expected = list(net.state_dict())
    assert list(get_state_dict(net)) == expected
    assert list(get_state_dict(wrapper(wrapper(net)))) == expected
    assert list(get_state_dict(nn.DataParallel(net))) == expected


def test_wrappers_inside_do_not_show_either(wrapper: type[nn.Module]) -> None:
    net = Net()
    expected = net.state_dict()
    net.conv = wrapper(net.conv)
    state = get_state_dict(net)
    assert list(state) == list(expected)
    assert state._metadata["norm"] == {"version": 2}
    other = Net()
    load_state_dict(other, state, strict=True)
    assert torch.equal(other.conv.weight, expected["conv.weight"])


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_a_compiled_module_is_seen_through() -> None:
    net = Net()
    assert unwrap(torch.compile(net)) is net
    assert list(get_state_dict(torch.compile(net))) == list(net.state_dict())


def test_a_wrapped_module_takes_a_plain_state(wrapper: type[nn.Module]) -> None:
    source, target = Net(), Net()
    load_state_dict(wrapper(target), source.state_dict(), strict=True)
    assert equal(source, target)


def test_what_does_not_fit_is_reported_together() -> None:
    state = Net(3).state_dict()
    state["head.weight"] = torch.zeros(1)
    del state["norm.weight"]
    with pytest.raises(RuntimeError) as caught:
        load_state_dict(Net(2), state, strict=True)
    text = str(caught.value)
    assert "The model and loaded state dict do not match exactly" in text
    assert "missing keys in source state_dict: norm.weight" in text
    assert "size mismatch for conv.weight" in text
    assert "size mismatch for conv.bias" in text


def test_unexpected_keys_are_reported() -> None:
    state = Net().state_dict()
    state["norm.extra"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=r"unexpected key in source state_dict: norm\.extra"):
        load_state_dict(Net(), state, strict=True)


def test_without_strict_what_fits_is_loaded(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    MMLogger.get_instance("partial", log_file=str(log))
    source, target = Net(), Net()
    state = source.state_dict()
    del state["conv.bias"]
    load_state_dict(target, state, logger="current")
    assert torch.equal(target.conv.weight, source.conv.weight)
    assert "missing keys in source state_dict: conv.bias" in log.read_text()


def test_absent_batch_counters_are_no_news() -> None:
    state = Net().state_dict()
    del state["norm.num_batches_tracked"]
    load_state_dict(Net(), state, strict=True)


def test_the_prefix_of_parallel_training_is_stripped(tmp_path: Path) -> None:
    source, target = Net(), Net()
    state = {f"module.{k}": v for k, v in source.state_dict().items()}
    save_checkpoint({"state_dict": state}, tmp_path / "a.pth")
    load_checkpoint(target, tmp_path / "a.pth", strict=True)
    assert equal(source, target)


def test_keys_can_be_mapped(tmp_path: Path) -> None:
    source, target = Net(), nn.ModuleDict({"backbone": Net()})
    save_checkpoint(source.state_dict(), tmp_path / "a.pth")
    load_checkpoint(target, tmp_path / "a.pth", strict=True, revise_keys=[("^", "backbone.")])
    assert equal(source, target["backbone"])


def test_a_file_without_weights_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "a.pth")
    with pytest.raises(ValueError, match="No state_dict found in checkpoint file"):
        load_checkpoint(Net(), tmp_path / "a.pth")


def test_the_loaded_model_does_not_depend_on_the_file(tmp_path: Path) -> None:
    source, target = Net(), Net()
    save_checkpoint({"state_dict": source.state_dict()}, tmp_path / "a.pth")
    load_checkpoint(target, tmp_path / "a.pth")
    before = copy.deepcopy(target.state_dict())
    (tmp_path / "a.pth").write_bytes(b"\0" * 4096)
    assert all(torch.equal(before[k], v) for k, v in target.state_dict().items())


def test_weights_to_cpu_keeps_structure_and_metadata() -> None:
    state = Net().state_dict()
    moved = weights_to_cpu(
        {**state, "nested": {"w": torch.ones(1)}, "list": [torch.ones(1)], "n": 1}
    )
    assert list(moved) == [*state, "nested", "list", "n"]
    assert moved["nested"]["w"].device.type == "cpu"
    assert weights_to_cpu(state)._metadata == state._metadata
