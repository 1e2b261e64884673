"""Tools around torch."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mmx.utils import dl_utils
from mmx.utils.dl_utils import TimeCounter, parrots_wrapper


@pytest.mark.parametrize(
    ("layer", "norm", "batch_norm"),
    [
        (nn.BatchNorm2d(1), True, True),
        (nn.SyncBatchNorm(1), True, True),
        (nn.InstanceNorm1d(1), True, False),
        (nn.GroupNorm(1, 1), True, False),
        (nn.LayerNorm(1), True, False),
        (nn.Linear(1, 1), False, False),
    ],
)
def test_normalisations_are_known(layer: nn.Module, norm: bool, batch_norm: bool) -> None:
    assert norm == dl_utils.is_norm(layer)
    assert batch_norm == dl_utils.has_batch_norm(nn.Sequential(layer))
    assert not dl_utils.is_norm(layer, exclude=type(layer))
    assert norm == dl_utils.is_norm(layer, exclude=(nn.Conv2d, nn.Identity))


@pytest.mark.parametrize("wrong", ["a", ("a",), 1])
def test_what_is_excluded_is_a_type(wrong: Any) -> None:
    with pytest.raises(
        TypeError, match='"exclude" must be either None or type or a tuple of types'
    ):
        dl_utils.is_norm(nn.BatchNorm2d(1), exclude=wrong)


def test_batches_become_images_again() -> None:
    batch = torch.tensor([0.0, 10.0, 20.0]).reshape(1, 3, 1, 1).expand(2, 3, 4, 5)
    images = dl_utils.tensor2imgs(batch, mean=(1, 2, 3), std=(2, 3, 4))
    assert 2 == len(images)
    assert (4, 5, 3) == images[0].shape
    assert np.float32 == images[0].dtype
    assert [83.0, 32.0, 1.0] == images[0][0, 0].tolist()
    assert images[0].flags.c_contiguous
    rgb = dl_utils.tensor2imgs(batch, mean=(1, 2, 3), std=(2, 3, 4), to_bgr=False)
    assert [1.0, 32.0, 83.0] == rgb[0][0, 0].tolist()
    assert (2, 2, 1) == dl_utils.tensor2imgs(torch.ones(1, 1, 2, 2), to_bgr=False)[0].shape


@pytest.mark.parametrize(
    ("batch", "kwargs", "error", "text"),
    [
        (1, {}, TypeError, "tensor must be a torch.Tensor, got int"),
        (torch.ones(3, 2, 2), {}, ValueError, r"must have the shape \(N, C, H, W\)"),
        (torch.ones(1, 2, 2, 2), {}, ValueError, "must have 1 or 3 channels, got 2"),
        (torch.ones(1, 1, 2, 2), {}, ValueError, "to_bgr needs three channels"),
        (torch.ones(1, 3, 2, 2), {"mean": (1,)}, ValueError, "need 3 values each, got 1 and 3"),
    ],
)
def test_what_is_no_batch_of_images_is_refused(
    batch: Any, kwargs: Any, error: type, text: str
) -> None:
    with pytest.raises(error, match=text):
        dl_utils.tensor2imgs(batch, **kwargs)


def test_the_environment_is_collected() -> None:
    env = dl_utils.collect_env()
    for key in ("sys.platform", "Python", "CUDA available", "GCC", "PyTorch", "MMX"):
        assert key in env
    assert torch.__version__ == env["PyTorch"]
    assert list(env).index("PyTorch") < list(env).index("MMX")


def test_times_are_averaged_and_printed(capsys: pytest.CaptureFixture[str]) -> None:
    @TimeCounter(log_interval=2, warmup_interval=1)
    def work(x: int) -> int:
        return x

    assert [0, 1, 2, 3] == [work(i) for i in range(4)]
    lines = capsys.readouterr().out.splitlines()
    assert 2 == len(lines)
    assert re.fullmatch(r"\[work\]-time per run averaged in the past 4 runs: \d+\.\d ms", lines[1])
    with TimeCounter(tag="block"):
        pass
    assert "[block]-time per run" in capsys.readouterr().out
    assert TimeCounter(tag="block") is TimeCounter(tag="block")
    with pytest.raises(ValueError, match="warmup_interval should be greater than 0, got 0"):
        TimeCounter(warmup_interval=0)
    with pytest.raises(ValueError, match="please specify the tag parameter"), TimeCounter():
        pass


def test_downstream_names_are_torchs_classes() -> None:
    assert isinstance(nn.BatchNorm2d(1), parrots_wrapper._BatchNorm)
    assert isinstance(nn.InstanceNorm2d(1), parrots_wrapper._InstanceNorm)
    assert isinstance(nn.Conv2d(1, 1, 1), parrots_wrapper._ConvNd)
    assert issubclass(parrots_wrapper.SyncBatchNorm, parrots_wrapper.SyncBatchNorm_)
    assert torch.__version__ == parrots_wrapper.TORCH_VERSION == dl_utils.TORCH_VERSION
    assert (torch.version.hip is not None) == parrots_wrapper.is_rocm_pytorch()
    with pytest.raises(ValueError, match=r"expected at least 2D input \(got 1D input\)"):
        parrots_wrapper.SyncBatchNorm(1)(torch.ones(1))


def test_meshgrid_and_tracing() -> None:
    a, b = dl_utils.torch_meshgrid(torch.arange(2), torch.arange(3))
    assert [[0, 0, 0], [1, 1, 1]] == a.tolist()
    assert [0, 1, 2] == b[0].tolist()
    assert not dl_utils.is_jit_tracing()
    assert not dl_utils.mmcv_full_available()


def test_weights_are_downloaded_once(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "x.pth")
    cache = tmp_path / "cache"
    url = (tmp_path / "x.pth").as_uri()
    for _ in range(2):
        loaded = dl_utils.load_url(url, model_dir=str(cache), progress=False)
        assert 1.0 == loaded["w"].item()
        if (tmp_path / "x.pth").exists():
            (tmp_path / "x.pth").unlink()
    with pytest.raises(ValueError, match="weights_only cannot be turned off"):
        dl_utils.load_url(url, weights_only=False)


def test_settings_of_worker_processes() -> None:
    # In a process of its own: the start method is for good.
    code = (
        "import os, torch.multiprocessing as mp\n"
        "for n in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'): os.environ.pop(n, None)\n"
        "from mmx.utils.dl_utils import set_multi_processing\n"
        "set_multi_processing('spawn', distributed=True)\n"
        "print(mp.get_start_method(), os.environ['OMP_NUM_THREADS'], os.environ['MKL_NUM_THREADS'])\n"
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as found:\n"
        "    warnings.simplefilter('always'); set_multi_processing('fork')\n"
        "print('different from the previous' in str(found[0].message), mp.get_start_method())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert "spawn 1 1\nTrue fork\n" == run.stdout


def test_torch_is_imported_when_a_tool_is_used() -> None:
    code = (
        "import sys, mmx.utils, mmx.utils.dl_utils, mmx.fileio\n"
        "mmx.fileio.load; mmx.utils.Timer; mmx.utils.track_progress_rich\n"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "False\n" == run.stdout
