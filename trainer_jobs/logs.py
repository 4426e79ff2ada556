"""What the jobs say: plain lines on standard error, with the time where nobody watches."""

import logging

from transformers.utils import logging as transformers_logging

from at2.progress import interactive

_FORMAT = "%(message)s"
_FORMAT_IN_A_LOG = "%(asctime)s %(levelname)s %(message)s"


def configure(*, quiet: bool = False) -> None:
    """Show our own lines and the library's; of others only warnings, and no bars in a log.

    Args:
        quiet: show warnings only, of our own, too.
    """
    watched = interactive() and not quiet
    logging.basicConfig(format=_FORMAT if watched else _FORMAT_IN_A_LOG)
    for name in ("at2", "trainer_jobs"):
        logging.getLogger(name).setLevel(logging.WARNING if quiet else logging.INFO)
    if not watched:
        transformers_logging.disable_progress_bar()
