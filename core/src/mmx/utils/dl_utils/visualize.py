"""Averages of results over ranks, for time measurements of tests and demos."""

from mmx.utils.dl_utils.misc import tensor2imgs

__all__ = ["tensor2imgs"]
