"""Settings of worker processes."""

from __future__ import annotations

import os
import platform
import sys
import warnings


def set_multi_processing(
    mp_start_method: str = "fork", opencv_num_threads: int = 0, distributed: bool = False
) -> None:
    """Set how worker processes start, and keep them from taking more threads than there are cores.

    Args:
        mp_start_method: ``'fork'``, ``'spawn'`` or ``'forkserver'``; ignored on Windows.
        opencv_num_threads: Threads of OpenCV, where it is imported.
        distributed: Whether several processes train; then OMP and MKL get one thread each,
            unless the environment says otherwise.
    """
    if platform.system() != "Windows":
        import torch.multiprocessing as mp

        current = mp.get_start_method(allow_none=True)
        if current is not None and current != mp_start_method:
            warnings.warn(
                f"Multi-processing start method `{mp_start_method}` is different from the previous "
                f"setting `{current}`. It will be force set to `{mp_start_method}`.",
                stacklevel=2,
            )
        mp.set_start_method(mp_start_method, force=True)
    # OpenCV is no dependency: set it where the user's code brought it in.
    if (cv2 := sys.modules.get("cv2")) is not None:
        cv2.setNumThreads(opencv_num_threads)
    if distributed:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, "1")
