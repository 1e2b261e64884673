"""Helpers for tests, of this engine and of what is built on it."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.testing.compare import assert_allclose as assert_allclose
    from mmx.testing.compare import assert_attrs_equal as assert_attrs_equal
    from mmx.testing.compare import assert_dict_contains_subset as assert_dict_contains_subset
    from mmx.testing.compare import assert_dict_has_keys as assert_dict_has_keys
    from mmx.testing.compare import assert_is_norm_layer as assert_is_norm_layer
    from mmx.testing.compare import assert_keys_equal as assert_keys_equal
    from mmx.testing.compare import assert_params_all_zeros as assert_params_all_zeros
    from mmx.testing.compare import check_python_script as check_python_script
    from mmx.testing.distributed import DistributedTestError as DistributedTestError
    from mmx.testing.distributed import run_distributed as run_distributed
    from mmx.testing.isolation import isolate as isolate
    from mmx.testing.runner_test_case import RunnerTestCase as RunnerTestCase
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "compare": [
                "assert_allclose",
                "assert_attrs_equal",
                "assert_dict_contains_subset",
                "assert_dict_has_keys",
                "assert_is_norm_layer",
                "assert_keys_equal",
                "assert_params_all_zeros",
                "check_python_script",
            ],
            "distributed": ["DistributedTestError", "run_distributed"],
            "isolation": ["isolate"],
            "runner_test_case": ["RunnerTestCase"],
        },
    )
