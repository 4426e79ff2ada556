"""What routes are given: the engine and the record store that the application owns."""

from typing import Annotated

from fastapi import Depends, Request

from service.engine import Engine
from service.records import RecordStore


def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def _store(request: Request) -> RecordStore:
    store: RecordStore = request.app.state.store
    return store


EngineDep = Annotated[Engine, Depends(_engine)]
StoreDep = Annotated[RecordStore, Depends(_store)]
