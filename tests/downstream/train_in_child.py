"""Train mmpretrain's scenarios in this process and write their traces: ``train_in_child.py FOLDER``."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONTRACT = Path(__file__).parents[1] / "contract" / "downstream"
sys.path.insert(0, str(CONTRACT))

import training  # noqa: E402 - found beside the records


@contextlib.contextmanager
def old_random_streams() -> Iterator[None]:
    """The two places where random numbers are drawn otherwise on purpose, as they were.

    We put the training's stream back after validation, and seed workers for each batch, so that
    a run resumed in the middle of an epoch goes on to the same bits. Both are in the manual.
    """
    from mmx.dataset import iteration
    from mmx.runner import loops

    kept = loops.training_stream_kept, iteration._begin_in_workers

    def begin(loader: Any, epoch: int, skip: int, seed: int | None) -> Iterator[Any]:
        return iteration._discard(iter(loader), skip)

    loops.training_stream_kept = lambda state: contextlib.nullcontext()  # type: ignore[assignment]  # a stand-in
    iteration._begin_in_workers = begin
    try:
        yield
    finally:
        loops.training_stream_kept, iteration._begin_in_workers = kept


def main(folder: Path) -> None:
    training.prepare()
    images = folder / "images"
    new, old = folder / "new", folder / "old"
    out: dict[str, Any] = {
        "kernels": training.kernel_fingerprint(),
        "trajectories": {},
        "continuations": {},
    }
    training.make_images(images)
    # First of all, so that the packages are imported in the middle of a seeded run.
    for name in training.SCENARIOS:
        out["trajectories"][f"{name}/no_validation"] = training.run(
            name, images, new / f"{name}_nv", validate=False
        )
    with old_random_streams():
        out["old_streams"] = training.trajectories(old)
    for name in training.RESUMED:
        saved = CONTRACT / f"{name}_epoch_1.pth"
        out["continuations"][name] = training.continuation(name, folder, saved)
    for workers in (0, 2):
        whole = training.run("convnext_ema", images, new / f"whole{workers}", workers)
        saved = new / f"whole{workers}" / "epoch_1.pth"
        resumed = training.run(
            "convnext_ema", images, new / f"resumed{workers}", workers, resume_from=saved
        )
        out[f"resumed/{workers}"] = [whole, resumed]
    (folder / "traces.json").write_text(json.dumps(out))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
