"""Versions as tuples that compare, and the version of a git checkout."""

from __future__ import annotations

import os
import subprocess

from packaging.version import parse

from mmx.utils.errors import InvalidTypeError, InvalidValueError


def digit_version(version_str: str, length: int = 4) -> tuple[int, ...]:
    """Return a version as a tuple of numbers that compares as versions do.

    The release is padded with zeros to ``length``; two numbers follow for the pre-release (alpha
    -3, beta -2, candidate -1, post-release 1, none 0) and its count.

    Args:
        version_str: For example ``'1.2.3rc1'``.
        length: Number of parts of the release.

    Raises:
        ValueError: The text is no version.
    """
    if "parrots" in version_str:
        raise InvalidValueError(f"{version_str!r} is not the version of a PyTorch release")
    version = parse(version_str)
    if not version.release:
        raise InvalidValueError(f"failed to parse version {version_str}")
    release = list(version.release)[:length]
    release += [0] * (length - len(release))
    if version.is_prerelease:
        kind, number = version.pre if version.pre else ("dev", version.dev or 0)
        order = {"a": -3, "b": -2, "rc": -1}.get(kind, -4)
        release.extend([order, number])
    elif version.is_postrelease:
        release.extend([1, version.post or 0])
    else:
        release.extend([0, 0])
    return tuple(release)


def _minimal_ext_cmd(cmd: list[str]) -> bytes:
    # A minimal environment, so that git speaks English.
    env = {k: v for k in ("SYSTEMROOT", "PATH", "HOME") if (v := os.environ.get(k)) is not None}
    env.update(LANGUAGE="C", LANG="C", LC_ALL="C")
    return subprocess.run(cmd, capture_output=True, env=env, check=True).stdout


def get_git_hash(fallback: str = "unknown", digits: int | None = None) -> str:
    """Return the commit hash of the working directory.

    Args:
        fallback: Returned outside of a git checkout, or without git.
        digits: Keep so many digits; None keeps all.

    Raises:
        TypeError: ``digits`` is no number.
    """
    if digits is not None and not isinstance(digits, int):
        raise InvalidTypeError("digits must be None or an integer")
    try:
        sha = _minimal_ext_cmd(["git", "rev-parse", "HEAD"]).strip().decode("ascii")
    except (OSError, subprocess.CalledProcessError):
        return fallback
    return sha[:digits]
