"""The base class of algorithms."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn

from mmx.model import BaseDataPreprocessor, BaseModel
from mmx.registry import MODELS


class Net(BaseModel):
    def __init__(self, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.linear = nn.Linear(2, 1)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        out = self.linear(inputs)
        if mode == "loss":
            return {"loss": out.sum(), "norm": out.detach().norm()}
        return (mode, out)


class Wrapper:
    """Writes down in which order the steps of learning happen."""

    def __init__(self):
        self.events = []

    @contextlib.contextmanager
    def optim_context(self, model):
        self.events.append(("enter", type(model).__name__))
        yield
        self.events.append("leave")

    def update_params(self, loss):
        self.events.append(("update", loss.item()))


def test_a_training_step_computes_within_the_context_and_updates_after_it():
    wrapper, net = Wrapper(), Net()
    logged = net.train_step({"inputs": torch.ones(1, 2)}, wrapper)
    assert wrapper.events == [("enter", "Net"), "leave", ("update", logged["loss"].item())]
    assert list(logged) == ["loss", "norm"]
    assert not any(value.requires_grad for value in logged.values())


def test_evaluation_predicts():
    net = Net()
    assert net.val_step({"inputs": torch.ones(1, 2)})[0] == "predict"
    assert net.test_step([torch.ones(1, 2)])[0] == "predict"
    assert net(torch.ones(1, 2))[0] == "tensor"


def test_a_batch_of_another_type_is_an_error():
    with pytest.raises(TypeError, match=r"should be list, tuple or dict, but got <class 'int'>"):
        Net().val_step(3)


def test_one_scalar_loss_adds_no_node_to_the_graph():
    loss = (torch.ones(1, requires_grad=True) * 2).sum()
    total, logged = Net().parse_losses({"loss": loss})
    assert total is loss
    assert logged["loss"].data_ptr() == loss.data_ptr()
    assert not logged["loss"].requires_grad
    total, logged = Net().parse_losses({"loss_cls": loss, "acc": torch.tensor(1.0)})
    assert total is loss
    assert list(logged) == ["loss", "loss_cls", "acc"]


def test_losses_are_averaged_and_those_with_loss_in_their_name_added_up():
    x = torch.tensor([1.0, 3.0], requires_grad=True)
    total, logged = Net().parse_losses({"loss_a": x, "loss_b": [x, x * 2], "acc": x})
    total.backward()
    assert total.item() == 8
    assert {k: v.item() for k, v in logged.items()} == {
        "loss": 8,
        "loss_a": 2,
        "loss_b": 6,
        "acc": 2,
    }
    assert list(logged) == ["loss", "loss_a", "loss_b", "acc"]
    assert x.grad.tolist() == [2, 2]


@pytest.mark.parametrize("value", [1.0, [1.0], (torch.ones(1),), None, "x"])
def test_a_loss_that_is_no_tensor_is_an_error(value):
    with pytest.raises(TypeError, match="loss_x is not a tensor or list of tensors"):
        Net().parse_losses({"loss_x": value})


def test_the_preprocessor_is_built_given_or_the_plain_one():
    assert type(Net().data_preprocessor) is BaseDataPreprocessor
    given = nn.Identity()
    assert Net(given).data_preprocessor is given
    built = Net(dict(type="ImgDataPreprocessor", mean=[1], std=[2])).data_preprocessor
    assert isinstance(built, MODELS.get("ImgDataPreprocessor"))
    with pytest.raises(TypeError, match=r"data_preprocessor should be a `dict` or `nn.Module`"):
        Net("ImgDataPreprocessor")


def test_moving_the_model_moves_where_batches_go():
    net = Net()
    assert net.to("meta").data_preprocessor.device == torch.device("meta")
    assert net.to(torch.float64).data_preprocessor.device == torch.device("meta")
    net = Net().to(device="meta")
    assert net.val_step({"inputs": torch.ones(1, 2)})[1].device.type == "meta"
    assert Net().to("meta").to_empty(device="cpu").cpu().data_preprocessor.device.type == "cpu"


def test_a_preprocessor_inside_of_another_part_moves_too():
    class Outer(BaseModel):
        def __init__(self):
            super().__init__()
            self.inner = Net()

        def forward(self, *args, **kwargs):
            return None

    assert Outer().to("meta").inner.data_preprocessor.device.type == "meta"


def test_the_forward_pass_must_be_written():
    with pytest.raises(TypeError, match="abstract"):
        BaseModel()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_model_moves_to_the_current_cuda_device():
    net = Net().cuda()
    assert net.data_preprocessor.device == torch.device("cuda", torch.cuda.current_device())
    assert net.val_step({"inputs": torch.ones(1, 2)})[1].is_cuda
    assert Net().to("cuda").val_step({"inputs": torch.ones(1, 2)})[1].is_cuda
    assert Net().cuda(0).data_preprocessor.device == torch.device("cuda:0")


class Doubling(BaseModel):
    """Records what `forward` gets."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.got = []

    def forward(self, x, mode="tensor"):
        self.got.append((x, mode))
        return {"loss": (self.weight * x).sum()} if mode == "loss" else [x]


class NoStep:
    """An optimizer wrapper that does nothing."""

    def optim_context(self, model):
        return contextlib.nullcontext()

    def update_params(self, loss): ...


def test_a_batch_that_needs_nothing_reaches_forward_as_it_is():
    model, batch = Doubling(), {"x": torch.ones(2)}
    assert model.data_preprocessor.leaves_as_is(batch)
    model.train_step(batch, NoStep())
    model.val_step(batch)
    model.test_step(batch)
    assert [("loss"), ("predict"), ("predict")] == [mode for _, mode in model.got]
    assert all(x is batch["x"] for x, _ in model.got)


@pytest.mark.parametrize(
    "data", [[torch.ones(2)], {"x": [1]}, {"x": nn.Parameter(torch.ones(1))}, None]
)
def test_other_batches_go_through_the_preprocessor(data):
    assert not BaseDataPreprocessor().leaves_as_is(data)


def test_hooks_on_the_preprocessor_are_called():
    model, calls = Doubling(), []
    handle = model.data_preprocessor.register_forward_hook(lambda *args: calls.append("after"))
    before = model.data_preprocessor.register_forward_pre_hook(lambda *args: calls.append("before"))
    model.train_step({"x": torch.ones(2)}, NoStep())
    handle.remove()
    before.remove()
    model.train_step({"x": torch.ones(2)}, NoStep())
    assert ["before", "after"] == calls
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, *args: calls.append(type(module).__name__)
    )
    model.val_step({"x": torch.ones(2)})
    handle.remove()
    assert ["BaseDataPreprocessor", "Doubling"] == calls[2:]


def test_a_run_forward_of_ones_own_is_called():
    class Own(Doubling):
        def _run_forward(self, data, mode):
            return super()._run_forward({"x": data["x"] + 1}, mode)

    model = Own()
    model.val_step({"x": torch.zeros(1)})
    patched = Doubling()
    patched._run_forward = lambda data, mode: "patched"
    assert 1 == model.got[0][0].item()
    assert "patched" == patched.val_step({"x": torch.zeros(1)})


def test_a_preprocessor_of_another_class_is_called():
    class Adds(BaseDataPreprocessor):
        def forward(self, data, training=False):
            return {"x": data["x"] + 1}

    model = Doubling()
    model.data_preprocessor = Adds()
    model.train_step({"x": torch.zeros(1)}, NoStep())
    assert 1 == model.got[0][0].item()
