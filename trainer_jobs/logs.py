"""What the jobs say: plain lines on standard error, with the time where nobody watches."""

import logging

from transformers.utils import logging as transformers_logging

from at2.progress import interactive

_FORMAT = "%(message)s"
_FORMAT_IN_A_LOG = "%(asctime)s %(levelname)s %(message)s"


def configure() -> None:
    """Show our own lines and the library's; of others only warnings, and no bars in a log."""
    watched = interactive()
    logging.basicConfig(format=_FORMAT if watched else _FORMAT_IN_A_LOG)
    for name in ("at2", "trainer_jobs"):
        logging.getLogger(name).setLevel(logging.INFO)
    if not watched:
        transformers_logging.disable_progress_bar()
