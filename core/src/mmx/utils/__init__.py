"""Small tools without torch: named instances, sequences, paths, versions, progress bars."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.utils.manager import ManagerMeta as ManagerMeta
    from mmx.utils.manager import ManagerMixin as ManagerMixin
    from mmx.utils.misc import apply_to as apply_to
    from mmx.utils.misc import check_prerequisites as check_prerequisites
    from mmx.utils.misc import concat_list as concat_list
    from mmx.utils.misc import deprecated_api_warning as deprecated_api_warning
    from mmx.utils.misc import deprecated_function as deprecated_function
    from mmx.utils.misc import get_object_from_string as get_object_from_string
    from mmx.utils.misc import has_method as has_method
    from mmx.utils.misc import import_modules_from_strings as import_modules_from_strings
    from mmx.utils.misc import is_list_of as is_list_of
    from mmx.utils.misc import is_method_overridden as is_method_overridden
    from mmx.utils.misc import is_seq_of as is_seq_of
    from mmx.utils.misc import is_str as is_str
    from mmx.utils.misc import is_tuple_of as is_tuple_of
    from mmx.utils.misc import iter_cast as iter_cast
    from mmx.utils.misc import list_cast as list_cast
    from mmx.utils.misc import requires_executable as requires_executable
    from mmx.utils.misc import requires_package as requires_package
    from mmx.utils.misc import slice_list as slice_list
    from mmx.utils.misc import to_1tuple as to_1tuple
    from mmx.utils.misc import to_2tuple as to_2tuple
    from mmx.utils.misc import to_3tuple as to_3tuple
    from mmx.utils.misc import to_4tuple as to_4tuple
    from mmx.utils.misc import to_ntuple as to_ntuple
    from mmx.utils.misc import tuple_cast as tuple_cast
    from mmx.utils.package_utils import call_command as call_command
    from mmx.utils.package_utils import get_installed_path as get_installed_path
    from mmx.utils.package_utils import install_package as install_package
    from mmx.utils.package_utils import is_installed as is_installed
    from mmx.utils.path import check_file_exist as check_file_exist
    from mmx.utils.path import fopen as fopen
    from mmx.utils.path import is_abs as is_abs
    from mmx.utils.path import is_filepath as is_filepath
    from mmx.utils.path import mkdir_or_exist as mkdir_or_exist
    from mmx.utils.path import scandir as scandir
    from mmx.utils.path import symlink as symlink
    from mmx.utils.progressbar import ProgressBar as ProgressBar
    from mmx.utils.progressbar import track_iter_progress as track_iter_progress
    from mmx.utils.progressbar import track_parallel_progress as track_parallel_progress
    from mmx.utils.progressbar import track_progress as track_progress
    from mmx.utils.progressbar_rich import track_progress_rich as track_progress_rich
    from mmx.utils.timer import Timer as Timer
    from mmx.utils.timer import TimerError as TimerError
    from mmx.utils.timer import check_time as check_time
    from mmx.utils.version_utils import digit_version as digit_version
    from mmx.utils.version_utils import get_git_hash as get_git_hash
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "manager": [
                "ManagerMeta",
                "ManagerMixin",
            ],
            "misc": [
                "apply_to",
                "check_prerequisites",
                "concat_list",
                "deprecated_api_warning",
                "deprecated_function",
                "get_object_from_string",
                "has_method",
                "import_modules_from_strings",
                "is_list_of",
                "is_method_overridden",
                "is_seq_of",
                "is_str",
                "is_tuple_of",
                "iter_cast",
                "list_cast",
                "requires_executable",
                "requires_package",
                "slice_list",
                "to_1tuple",
                "to_2tuple",
                "to_3tuple",
                "to_4tuple",
                "to_ntuple",
                "tuple_cast",
            ],
            "package_utils": [
                "call_command",
                "get_installed_path",
                "install_package",
                "is_installed",
            ],
            "path": [
                "check_file_exist",
                "fopen",
                "is_abs",
                "is_filepath",
                "mkdir_or_exist",
                "scandir",
                "symlink",
            ],
            "progressbar": [
                "ProgressBar",
                "track_iter_progress",
                "track_parallel_progress",
                "track_progress",
            ],
            "progressbar_rich": [
                "track_progress_rich",
            ],
            "timer": [
                "Timer",
                "TimerError",
                "check_time",
            ],
            "version_utils": [
                "digit_version",
                "get_git_hash",
            ],
        },
    )
