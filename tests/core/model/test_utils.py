"""Synchronised normalisation, anomalous parameters, merging, joined convolutions, augmented tests."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mmx.model import (
    BaseModel,
    BaseTTAModel,
    ExponentialMovingAverage,
    ImgDataPreprocessor,
    convert_sync_batchnorm,
    detect_anomalous_params,
    is_model_wrapper,
    merge_dict,
    revert_sync_batchnorm,
    stack_batch,
    update_init_info,
    xavier_init,
)
from mmx.model.efficient_conv_bn_eval import (
    turn_on_efficient_conv_bn_eval,
    turn_on_efficient_conv_bn_eval_for_single_model,
)
from mmx.registry import MODEL_WRAPPERS, MODELS, Registry


def conv_net():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, bias=False),
        nn.BatchNorm2d(4, affine=False),
    )
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(4, 3, 8, 8) * 2 + 1)
    return net


def test_later_dicts_win_and_none_is_changed():
    a, b = {"x": 1, "y": 2}, {"y": 3}
    assert merge_dict(a, b) == {"x": 1, "y": 3}
    assert merge_dict() == {}
    assert a == {"x": 1, "y": 2}


def test_synchronised_normalisation_is_reverted_with_its_weights_and_statistics():
    net = conv_net().eval()
    x = torch.randn(2, 3, 8, 8)
    expected = net(x)
    synchronised = convert_sync_batchnorm(copy.deepcopy(net))
    assert isinstance(synchronised[1], nn.SyncBatchNorm)
    weight = synchronised[1].weight
    reverted = revert_sync_batchnorm(synchronised)
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in reverted.modules())
    assert torch.allclose(expected, reverted(x))
    assert reverted[1].weight is weight
    assert not reverted[1].training
    assert list(reverted.state_dict()) == list(net.state_dict())
    # Of any number of dimensions, as the synchronised one.
    assert revert_sync_batchnorm(nn.SyncBatchNorm(2))(torch.randn(3, 2)).shape == (3, 2)


def test_another_implementation_is_an_error():
    with pytest.raises(ValueError, match='sync_bn should be "torch" or "mmcv", but got x'):
        convert_sync_batchnorm(conv_net(), "x")
    with pytest.raises(ModuleNotFoundError, match="mmcv"):
        convert_sync_batchnorm(conv_net(), "mmcv")


def test_parameters_without_a_part_in_the_loss_are_named(capsys):
    net = nn.ModuleDict({"used": nn.Linear(1, 1), "idle": nn.Linear(1, 1), "off": nn.Linear(1, 1)})
    net["off"].requires_grad_(False)
    names = detect_anomalous_params(net["used"](torch.ones(1, 1)).sum(), net)
    assert names == {"idle.weight", "idle.bias"}
    out = capsys.readouterr().out
    assert "idle.weight with shape torch.Size([1, 1]) is not in the computational graph" in out
    assert "off.weight" not in out


def test_wrappers_are_known_by_the_registry_and_its_children():
    child = Registry("model wrapper", parent=MODEL_WRAPPERS, scope="wrappers_of_a_test")

    @child.register_module()
    class Wrapper(nn.Module):
        pass

    assert is_model_wrapper(Wrapper())
    assert is_model_wrapper(nn.DataParallel(nn.Linear(1, 1)))
    assert not is_model_wrapper(nn.DataParallel(nn.Linear(1, 1)), child)
    assert not is_model_wrapper(nn.Linear(1, 1))
    assert MODEL_WRAPPERS.get("DistributedDataParallel") is nn.parallel.DistributedDataParallel


# Joined convolutions --------------------------------------------------------------------------


def test_joined_convolutions_compute_the_same():
    net = conv_net()
    joined = copy.deepcopy(net)
    turn_on_efficient_conv_bn_eval_for_single_model(joined)
    x = torch.randn(2, 3, 8, 8)
    assert list(joined.state_dict()) == list(net.state_dict())
    for mode in (True, False, True):
        net.train(mode)
        joined.train(mode)
        torch.testing.assert_close(net(x), joined(x), rtol=1e-4, atol=1e-5)
    net.eval()
    joined.eval()
    for model in (net, joined):
        model.zero_grad()
        model(x).square().sum().backward()
    for ours, theirs in zip(joined.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad, rtol=1e-3, atol=1e-3)


def test_a_copy_of_a_joined_model_stands_by_itself():
    net = conv_net().eval()
    turn_on_efficient_conv_bn_eval_for_single_model(net)
    twin = copy.deepcopy(net)
    x = torch.randn(1, 3, 8, 8)
    expected = net(x)
    nn.init.zeros_(net[0].weight)
    assert torch.equal(expected, twin(x))


def test_only_what_may_be_joined_is():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.norm = nn.BatchNorm2d(3)
            self.twice = nn.Conv2d(3, 3, 1)
            self.after = nn.BatchNorm2d(3)
            self.plain = Plain(3, 3, 1)
            self.last = nn.BatchNorm2d(3)

        def forward(self, x):
            x = self.conv(x)
            x = self.norm(x) + x
            x = self.after(self.twice(self.twice(x)))
            return self.last(self.plain(x))

    class Plain(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) * 2

    net = Shared().eval()
    joined = copy.deepcopy(net)
    turn_on_efficient_conv_bn_eval_for_single_model(joined)
    assert not any("forward" in vars(module) for module in joined.modules())


def test_parts_are_named():
    net = nn.ModuleDict({"backbone": conv_net(), "head": conv_net()})
    turn_on_efficient_conv_bn_eval(net, "backbone")
    assert "forward" in vars(net["backbone"][0])
    assert "forward" not in vars(net["head"][0])
    turn_on_efficient_conv_bn_eval(net, ["head"])
    assert "forward" in vars(net["head"][0])
    with pytest.raises(AttributeError, match="neck"):
        turn_on_efficient_conv_bn_eval(net, "neck")


# Test-time augmentation -----------------------------------------------------------------------


class Echo(BaseModel):
    def forward(self, inputs, data_samples=None, mode="tensor"):
        return [x * 2 for x in inputs]


class Joined(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return [sum(copies) for copies in data_samples_list]


def test_predictions_of_copies_are_merged_by_sample():
    model = Joined(Echo())
    # Two copies of each of three samples.
    copies = [[1, 2, 3], [10, 20, 30]]
    assert model.test_step({"inputs": copies}) == [22, 44, 66]
    assert model.test_step([copies, [[0] * 3, [0] * 3]]) == [22, 44, 66]
    assert model.test_step((copies,)) == [22, 44, 66]


def test_the_wrapped_model_is_built_with_the_preprocessor_given():
    MODELS.register_module(name="EchoOfATest", module=Echo)
    model = Joined({"type": "EchoOfATest"}, data_preprocessor={"type": "ImgDataPreprocessor"})
    assert type(model.module.data_preprocessor).__name__ == "ImgDataPreprocessor"


def test_what_cannot_be_augmented_is_an_error():
    with pytest.raises(TypeError, match=r"should be a `nn.Module` instance or a dict, but got 1"):
        Joined(1)
    with pytest.raises(TypeError, match="must implement `test_step`"):
        Joined(nn.Linear(1, 1))
    with pytest.raises(TypeError, match="should be a dict, tuple or a list, but got <class 'str'>"):
        Joined(Echo()).test_step("x")
    with pytest.raises(NotImplementedError, match="Please call `test_step`"):
        Joined(Echo())(1)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: stack_batch("x"),
        lambda: stack_batch([]),
        lambda: merge_dict({}, 1),
        lambda: xavier_init(nn.Linear(1, 1), distribution="x"),
        lambda: ImgDataPreprocessor(mean=[1, 2, 3]),
        lambda: ImgDataPreprocessor(bgr_to_rgb=True, rgb_to_bgr=True),
        lambda: ImgDataPreprocessor()({"inputs": torch.ones(3, 4, 5)}),
        lambda: ExponentialMovingAverage(nn.Linear(1, 1), momentum=1.5),
        lambda: update_init_info(nn.Linear(1, 1), "x"),
    ],
)
def test_wrong_arguments_are_failed_assertions_to_old_code(wrong):
    with pytest.raises(AssertionError):
        wrong()


def test_parameters_without_part_in_the_loss_are_logged_in_the_order_of_the_model(capsys):
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    found = detect_anomalous_params(model[0](torch.ones(1, 1)).sum(), model)
    assert {"1.weight", "1.bias"} == found
    text = capsys.readouterr().out
    assert -1 < text.index("1.weight with shape") < text.index("1.bias with shape")
