"""Operations: what operators, and requests for cold models, asked to be done."""

import time
import uuid
from collections import OrderedDict
from typing import Literal

from services.fleet.journal import ChangeSignal
from services.schema import Operation, OperationState

Kind = Literal["load", "unload", "pin", "unpin"]

KEPT = 500
SHOWN_FOR_S = 60.0
"""How long an ended operation stays in the snapshot."""


class OperationLog:
    """The last operations, by id."""

    def __init__(self, signal: ChangeSignal) -> None:
        self._signal = signal
        self._all: OrderedDict[str, Operation] = OrderedDict()

    def start(
        self,
        kind: Kind,
        model: str,
        node: str | None,
        by: str,
    ) -> Operation:
        operation = Operation(
            id=f"op-{uuid.uuid4().hex[:12]}",
            kind=kind,
            model=model,
            node=node,
            by=by,
            created_at=time.time(),
        )
        self._all[operation.id] = operation
        self._forget_old()
        self._signal.touch()
        return operation

    def finish(self, operation: Operation, error: str | None) -> None:
        operation.state = OperationState.FAILED if error else OperationState.DONE
        operation.error = error
        operation.finished_at = time.time()
        self._signal.touch()

    def get(self, id: str) -> Operation | None:  # noqa: A002
        return self._all.get(id)

    def shown(self, now: float) -> list[Operation]:
        """Those running and those that ended lately; `now` in epoch seconds."""
        return [
            operation
            for operation in self._all.values()
            if operation.finished_at is None
            or now - operation.finished_at < SHOWN_FOR_S
        ]

    def _forget_old(self) -> None:
        ended = [o.id for o in self._all.values() if o.finished_at is not None]
        for id_ in ended[: max(0, len(self._all) - KEPT)]:
            del self._all[id_]
