"""Modules that initialise themselves."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn

from mmx.logging import MMLogger
from mmx.model import BaseModule, ModuleDict, ModuleList, PretrainedInit, Sequential


class Net(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.linear = nn.Linear(2, 2)
        self.head = nn.Linear(2, 1)


def constant(value, **more):
    return dict(type="Constant", val=value, layer="Linear", **more)


def test_the_config_is_copied_and_shown():
    cfg = constant(2)
    net = Net(cfg)
    cfg["val"] = 3
    assert net.init_cfg == constant(2)
    assert repr(net).endswith(f"\ninit_cfg={constant(2)}")
    assert "init_cfg" not in repr(Net())


def test_a_module_is_initialised_once():
    net = Net(constant(2))
    assert not net.is_init
    net.init_weights()
    assert net.is_init
    assert net.linear.weight.eq(2).all()
    with torch.no_grad():
        net.linear.weight.fill_(5)
    net.init_weights()
    assert net.linear.weight.eq(5).all()


def test_a_second_call_is_logged_as_a_warning(tmp_path):
    file = tmp_path / "run.log"
    MMLogger.get_instance("second call", log_file=str(file))
    net = Net()
    net.init_weights()
    net.init_weights()
    assert "WARNING - init_weights of Net has been called more than once." in file.read_text()


def test_children_are_initialised_after_their_parent():
    class Outer(BaseModule):
        def __init__(self):
            super().__init__(constant(1))
            self.inner = Net(constant(2))
            self.plain = nn.Linear(1, 1)

    outer = Outer()
    outer.init_weights()
    assert outer.plain.weight.item() == 1
    assert outer.inner.head.weight.eq(2).all()
    assert outer.inner.is_init


def test_a_child_that_was_initialised_before_is_left_alone():
    class Outer(BaseModule):
        def __init__(self):
            super().__init__()
            self.inner = Net(constant(2))

    outer = Outer()
    outer.inner.is_init = True
    before = outer.inner.head.weight.clone()
    outer.init_weights()
    assert torch.equal(before, outer.inner.head.weight)


def test_pretrained_weights_come_last_whatever_the_order(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"head.bias": torch.tensor([7.0])}, file)
    for kind in ("Pretrained", PretrainedInit):
        net = Net([dict(type=kind, checkpoint=str(file)), constant(1)])
        net.init_weights()
        assert (net.head.bias.item(), net.head.weight[0, 0].item()) == (7, 1)


def test_the_record_says_what_initialised_each_parameter(tmp_path):
    file = tmp_path / "run.log"
    MMLogger.get_instance("record", log_file=str(file))

    class Custom(Net):
        def init_weights(self):
            nn.init.constant_(self.linear.weight, 3)

    class Outer(BaseModule):
        def __init__(self):
            super().__init__(constant(1))
            self.plain = nn.Linear(1, 1)
            self.custom = Custom()
            self.untouched = nn.BatchNorm1d(1)

    outer = Outer()
    outer.init_weights()
    text = file.read_text()
    assert text.startswith("Name of parameter - Initialization information\n")
    assert "\nplain.weight - torch.Size([1, 1]): \nConstantInit: val=1, bias=0 \n" in text
    assert (
        "\ncustom.linear.weight - torch.Size([2, 2]): \nInitialized by user-defined `init_weights` in Custom  \n"
        in text
    )
    assert (
        "\nuntouched.weight - torch.Size([1]): \nThe value is the same before and after calling "
        "`init_weights` of Outer  \n" in text
    )
    assert not any(hasattr(module, "_params_init_info") for module in outer.modules())


def test_without_a_file_the_record_is_logged(capsys):
    MMLogger.get_instance("no file")
    Net(constant(1)).init_weights()
    out = capsys.readouterr().out
    assert "INFO - \nlinear.weight - torch.Size([2, 2]): \nConstantInit: val=1, bias=0 \n" in out


def test_a_log_file_that_is_opened_late_gets_the_record(tmp_path):
    file = tmp_path / "late.log"
    logger = MMLogger.get_instance("late")
    handler = logging.FileHandler(file, delay=True)
    logger.handlers.append(handler)
    Net(constant(1)).init_weights()
    handler.close()
    assert "ConstantInit: val=1" in file.read_text()


def test_parameters_of_any_kind_can_be_recorded():
    net = Net(constant(1))
    net.counter = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
    net.empty = nn.Parameter(torch.zeros(0))
    net.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    net.init_weights()
    assert net.is_init


@pytest.mark.parametrize(
    ("init_cfg", "error", "message"),
    [
        ("x", TypeError, "init_cfg of Net must be a dict or a list of dict, but got 'x'"),
        ([1], TypeError, r"init_cfg of Net must be a dict or a list of dict, but got \[1\]"),
        ({"val": 1}, KeyError, 'init_cfg of Net should have the key "type"'),
        (dict(type="Constnat", val=1), KeyError, "Constnat is not in the mmx::weight initializer"),
        (dict(type="Constant", layer="Linear"), TypeError, "missing 1 required .*: 'val'"),
    ],
)
def test_a_wrong_config_is_an_error(init_cfg, error, message):
    with pytest.raises(error, match=message):
        Net(init_cfg).init_weights()


def test_parameters_may_not_be_added_while_initialising():
    class Adds(Net):
        def init_weights(self):
            self.late = nn.Linear(1, 1)

    class Outer(BaseModule):
        def __init__(self):
            super().__init__()
            self.inner = Adds()

    with pytest.raises(ValueError, match=r"Find a new :obj:`Parameter` named `late.weight`"):
        Outer().init_weights()


def test_containers_take_init_cfg():
    parts = [nn.Linear(1, 1), nn.Linear(1, 1)]
    containers = [
        Sequential(*copy.deepcopy(parts), init_cfg=constant(3)),
        ModuleList(copy.deepcopy(parts), init_cfg=constant(3)),
        ModuleDict({"a": nn.Linear(1, 1)}, init_cfg=constant(3)),
    ]
    for container in containers:
        container.init_weights()
        assert all(p.item() in (3, 0) for p in container.parameters())
        assert container.is_init
    assert containers[0](torch.ones(1, 1)).item() == 9
    assert len(ModuleList()) == len(ModuleDict()) == len(Sequential()) == 0


def test_a_wrapped_child_is_initialised():
    class Outer(BaseModule):
        def __init__(self):
            super().__init__()
            self.inner = nn.DataParallel(Net(constant(4)))

    outer = Outer()
    outer.init_weights()
    assert outer.inner.module.head.weight.eq(4).all()
