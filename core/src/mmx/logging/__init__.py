"""Logging: the logger, the buffers of what a run reports, and the hub that holds them."""

from typing import TYPE_CHECKING

from mmx._lazy import lazy_exports

if TYPE_CHECKING:
    from mmx.logging.history_buffer import HistoryBuffer as HistoryBuffer
    from mmx.logging.logger import MMLogger as MMLogger
    from mmx.logging.logger import print_log as print_log
    from mmx.logging.message_hub import MessageHub as MessageHub
else:
    __getattr__, __dir__, __all__ = lazy_exports(
        __name__,
        {
            "history_buffer": ["HistoryBuffer"],
            "logger": ["MMLogger", "print_log"],
            "message_hub": ["MessageHub"],
        },
    )
