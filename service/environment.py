"""Variables `AT2_…` that are no settings: a misspelt one ends the start, others' are ignored.

A setting that is silently not read is worse than none: a limit or a key would not be there.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

PREFIX = "AT2_"

_JOBS = "AT2_JOBS_"

_OTHERS = {
    "AT2_API_KEY": "is the key that `at2 ask` sends; the server's keys are AT2_API_KEYS",
    "AT2_URL": "is where `at2 ask` finds a server; this one listens on AT2_HOST and AT2_PORT",
    "AT2_PUBLISHED_PORT": "belongs to docker-compose.yml",
}
"""Names that belong to something else here, and how they are told apart."""

# What Kubernetes puts into every container of a namespace that has a service at2 or at2-anything.
_SERVICE = re.compile(
    r"AT2_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_PORT = re.compile(r"AT2_(\w+_)?PORT")
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://.*")


def ignored(environment: Mapping[str, str], settings: Iterable[str]) -> dict[str, str]:
    """Variables that the server does not read, with what is to be said of each.

    Args:
        environment: all variables.
        settings: names of the settings, as fields.

    Raises:
        ValueError: some are nobody's; has a line for each, with the nearest name that there is.
    """
    known = {PREFIX + name.upper() for name in settings}
    found: dict[str, str] = {}
    wrong: list[str] = []
    for variable, value in sorted(environment.items()):
        name = variable.upper()
        if not name.startswith(PREFIX) or not value:
            continue
        if _SERVICE_PORT.fullmatch(name) and _SERVICE_ADDRESS.fullmatch(value):
            found[variable] = f"({value}) is Kubernetes' address of a service"
        elif name in known:
            continue
        elif _SERVICE.fullmatch(name):
            found[variable] = "is Kubernetes' address of a service"
        elif name.startswith(_JOBS):
            found[variable] = "belongs to the jobs"
        elif name in _OTHERS:
            found[variable] = _OTHERS[name]
        else:
            near = get_close_matches(name, known, n=1)
            wrong.append(
                f"{variable}: there is no such setting" + "".join(f"; {one}?" for one in near)
            )
    if wrong:
        raise ValueError("\n".join(wrong))
    return found
