"""Where a request goes. Pure: the same facts give the same decision."""

from collections.abc import Sequence
from dataclasses import dataclass

from neuron.protocol.errors import ApiError, unavailable
from neuron.protocol.types import Model, ModelState
from services.catalogue import ModelEntry
from services.schema import NodeState

NODE_RETRY_S = 3
FAILED_RETRY_S = 30


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model on one node."""

    node: str
    node_state: NodeState
    node_reason: str | None
    model: Model
    in_flight: int = 0
    """Requests for this model that this gateway has there now."""
    free_mb: int | None = None

    @property
    def answers(self) -> bool:
        return self.node_state in (NodeState.READY, NodeState.STALE)


@dataclass(frozen=True, slots=True)
class Serve:
    """A replica takes it now."""

    node: str


@dataclass(frozen=True, slots=True)
class Wait:
    """A replica is on its way: loading, recovering or unloading."""

    node: str
    state: ModelState


@dataclass(frozen=True, slots=True)
class Load:
    """Nobody has it loaded; these nodes could, best guess first."""

    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refuse:
    """Nobody can serve it now."""

    error: ApiError


@dataclass(frozen=True, slots=True)
class Unknown:
    """No node has ever heard of this model."""


Decision = Serve | Wait | Load | Refuse | Unknown


def route(
    entry: ModelEntry,
    candidates: Sequence[Candidate],
    failed_nodes: frozenset[str] = frozenset(),
) -> Decision:
    """Decide for one request.

    `candidates` are all nodes that know the model; `failed_nodes` are those that have
    failed this very request before its first byte.
    """
    if not candidates:
        return Unknown()
    if serving := _serving(candidates, failed_nodes):
        return Serve(min(serving, key=_busyness).node)
    if coming := _in_state(candidates, ModelState.LOADING, ModelState.RECOVERING):
        return Wait(coming[0].node, coming[0].model.state)
    if failed_nodes:
        # A node that just failed may be back in a moment: no second copy elsewhere.
        return Refuse(_upstream_failed(entry.id, failed_nodes))
    if cold := cold_candidates(entry, candidates):
        return Load(tuple(c.node for c in cold))
    if leaving := _in_state(candidates, ModelState.UNLOADING):
        return Wait(leaving[0].node, ModelState.UNLOADING)
    return Refuse(why_not(entry, candidates))


def cold_candidates(
    entry: ModelEntry, candidates: Sequence[Candidate]
) -> list[Candidate]:
    """Nodes that may load it: fits into free memory, then most free, then name."""
    able = [
        c
        for c in candidates
        if c.node_state is NodeState.READY
        and c.model.state is ModelState.UNLOADED
        and c.model.servable.ok
        and (not entry.place_on or c.node in entry.place_on)
    ]
    return sorted(able, key=lambda c: (not _fits(c), -(c.free_mb or 0), c.node))


def _fits(candidate: Candidate) -> bool:
    """By weights alone; the neuron's own plan is asked before a load."""
    need, free = candidate.model.weight_bytes, candidate.free_mb
    return need is not None and free is not None and need <= free * 2**20


def _serving(
    candidates: Sequence[Candidate], failed_nodes: frozenset[str]
) -> list[Candidate]:
    return [
        c
        for c in candidates
        if c.answers
        and c.model.state is ModelState.READY
        and c.model.servable.ok
        and c.node not in failed_nodes
    ]


def _busyness(candidate: Candidate) -> tuple[bool, int, str]:
    return (
        candidate.node_state is not NodeState.READY,
        candidate.in_flight,
        candidate.node,
    )


def _in_state(candidates: Sequence[Candidate], *states: ModelState) -> list[Candidate]:
    found = [c for c in candidates if c.answers and c.model.state in states]
    return sorted(found, key=lambda c: (states.index(c.model.state), c.node))


def _upstream_failed(model: str, nodes: frozenset[str]) -> ApiError:
    return ApiError(
        502,
        f"{', '.join(sorted(nodes))} failed to answer for '{model}', and no other "
        "replica is ready",
        code="upstream_failed",
        type="server_error",
        retry_after=NODE_RETRY_S,
    )


def why_not(entry: ModelEntry, candidates: Sequence[Candidate]) -> ApiError:
    """The refusal that says most: failure, then unfitness, then silence."""
    model = entry.id
    answering = [c for c in candidates if c.answers]
    for candidate in answering:
        if candidate.model.state is ModelState.FAILED:
            why = candidate.model.error or "no reason given"
            return unavailable(
                f"'{model}' failed on {candidate.node} and waits for an operator to "
                f"load it again: {why}",
                code="model_failed",
                retry_after=FAILED_RETRY_S,
            )
    for candidate in answering:
        if not candidate.model.servable.ok:
            why = candidate.model.servable.reason or "no reason given"
            return unavailable(
                f"{candidate.node} cannot serve '{model}': {why}",
                code="model_not_servable",
                retry_after=FAILED_RETRY_S,
            )
    if answering and entry.place_on:
        return unavailable(
            f"'{model}' may be loaded on {', '.join(entry.place_on)} only, and none "
            "of them can do so now",
            code="node_unavailable",
            retry_after=NODE_RETRY_S,
        )
    states = ", ".join(
        f"{c.node} is {c.node_state}" + (f" ({c.node_reason})" if c.node_reason else "")
        for c in sorted(candidates, key=lambda c: c.node)
    )
    return unavailable(
        f"no node that has '{model}' can serve it now: {states}",
        code="node_unavailable",
        retry_after=NODE_RETRY_S,
    )
