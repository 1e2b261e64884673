"""The hook for test-time augmentation under the module name that MMEngine gives it."""

from mmx.hooks.prepare_tta_hook import PrepareTTAHook as PrepareTTAHook
from mmx.hooks.prepare_tta_hook import build_runner_with_tta as build_runner_with_tta
