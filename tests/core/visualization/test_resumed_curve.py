"""One curve from a run that was stopped and resumed, through the runner."""

import glob

import pytest
import torch

from mmx.model import BaseModel
from mmx.runner import Runner
from mmx.visualization import read_scalars

pytestmark = pytest.mark.usefixtures("isolated")


class Toy(BaseModel):
    def __init__(self, fails_at=None):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)
        self.steps, self.fails_at = 0, fails_at

    def forward(self, inputs, target, mode="tensor"):
        self.steps += 1
        if self.steps == self.fails_at:
            raise RuntimeError("killed")
        error = self.linear(inputs) - target
        return {"loss1": error.pow(2), "loss2": error.abs()}


def train(work_dir, resume=False, fails_at=None):
    torch.manual_seed(0)  # the weights are made before the runner
    data = [(torch.ones(1), torch.zeros(1))] * 20
    runner = Runner(
        Toy(fails_at),
        str(work_dir),
        train_dataloader=torch.utils.data.DataLoader(data, batch_size=2),
        train_cfg=dict(by_epoch=True, max_epochs=4),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01)),
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=2),
            checkpoint=dict(type="CheckpointHook", interval=1),
        ),
        visualizer=dict(
            type="Visualizer",
            vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")],
        ),
        experiment_name="resumed" if resume else "first",
        randomness=dict(seed=1),
        resume=resume,
    )
    runner.train()
    return runner


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_that_failed_and_was_resumed_has_one_curve(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    whole = train(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path / "parts", fails_at=27)  # in epoch 3, after its records of 22, 24 and 26
    train(tmp_path / "parts", resume=True)

    expected = [(float(s), v) for s, v in read_scalars(tmp_path / "whole")["loss"]]
    assert [s for s, _ in expected] == [float(s) for s in range(2, 41, 2)]
    assert read_scalars(tmp_path / "parts")["loss"] == expected

    files = glob.glob(str(tmp_path / "parts" / "*" / "vis_data" / "events*"))
    (folder,) = {file.rsplit("/", 1)[0] for file in files}
    events = reader.EventAccumulator(folder)
    events.Reload()
    curve = [(float(e.step), pytest.approx(e.value)) for e in events.Scalars("loss")]
    assert curve == expected
    assert whole.message_hub.get_scalar("train/loss").data[0].shape == (40,)
