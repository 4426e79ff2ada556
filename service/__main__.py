"""`python -m service`: load the model, then listen. Settings come from the environment."""

import logging
import sys

import uvicorn
from pydantic import ValidationError
from transformers.utils import logging as transformers_logging

from at2.errors import At2Error
from service.app import create_app
from service.engine import Engine
from service.settings import Settings


def main() -> int:
    """Serve until interrupted; 1 if the server could not start, with one line saying why."""
    try:
        settings = Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "AT2_" + "_".join(str(part) for part in problem["loc"]).upper()
            print(f"{name}={problem['input']!r}: {problem['msg']}", file=sys.stderr)
        return 1
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    transformers_logging.disable_progress_bar()
    try:
        engine = Engine(settings)
    except At2Error as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 1
    uvicorn.run(
        create_app(engine),
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        server_header=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
