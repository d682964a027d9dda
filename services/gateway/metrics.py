"""The gateway's numbers for Prometheus, in a registry of their own."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from neuron.protocol import routes
from services.fleet.state import FleetState
from services.gateway.dialects.usage import Usage
from services.gateway.key_metrics import KeyMetrics
from services.schema import NodeState, Operation

DURATION_BUCKETS = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1200)
TTFT_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120)
TOK_S_BUCKETS = (1, 2.5, 5, 10, 15, 20, 30, 40, 60, 80, 120, 200)
GENERATING = frozenset({routes.V1_CHAT_COMPLETIONS, routes.V1_COMPLETIONS})
"""A neuron's routes that generate: their durations are worth a histogram."""
_REPLICA = ("model", "node")


class Metrics:
    """Counters and histograms; gauges are read from the fleet when scraped."""

    def __init__(self, state: FleetState) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "cortex_requests",
            "Requests that ended; status 499: the client went away, "
            "502 after a 200: the stream broke",
            (*_REPLICA, "route", "status"),
            registry=registry,
        )
        self._tokens = {
            field: Counter(name, text, _REPLICA, registry=registry)
            for field, name, text in (
                ("prompt", "cortex_prompt_tokens", "Prompt tokens, cached included"),
                ("completion", "cortex_completion_tokens", "Generated tokens"),
                (
                    "cached",
                    "cortex_cached_prompt_tokens",
                    "Prompt tokens that the prefix cache held",
                ),
            )
        }
        self._ttft = Histogram(
            "cortex_time_to_first_token_seconds",
            "From the request's arrival to its first token; streams only",
            _REPLICA,
            buckets=TTFT_BUCKETS,
            registry=registry,
        )
        self._duration = Histogram(
            "cortex_request_duration_seconds",
            "From the request's arrival to the last byte of its answer",
            _REPLICA,
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self._tok_s = Histogram(
            "cortex_tokens_per_second",
            "Decode rate of one stream, first to last token",
            _REPLICA,
            buckets=TOK_S_BUCKETS,
            registry=registry,
        )
        self._loads = Counter(
            "cortex_loads",
            "Loads that ended; result: done or failed",
            (*_REPLICA, "result"),
            registry=registry,
        )
        self._load_duration = Histogram(
            "cortex_load_duration_seconds",
            "Of loads that succeeded",
            _REPLICA,
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self.keys = KeyMetrics(registry)
        registry.register(_FleetGauges(state))

    def request_ended(
        self,
        model: str,
        node: str,
        route: str,
        status: int,
        duration: float,
        ttft: float | None,
        usage: Usage | None,
        tok_s: float | None,
        *,
        generated: bool,
    ) -> None:
        """Times in seconds; `node` is empty where the request reached none."""
        self._requests.labels(model, node, route, str(status)).inc()
        if generated:
            self._duration.labels(model, node).observe(duration)
        if ttft is not None:
            self._ttft.labels(model, node).observe(ttft)
        if tok_s is not None:
            self._tok_s.labels(model, node).observe(tok_s)
        if usage is not None:
            for field, counter in self._tokens.items():
                counter.labels(model, node).inc(getattr(usage, field))

    def refused(self, route: str, status: int) -> None:
        """A request that named no model of this fleet: without the name, which the
        client chose, for labels are kept for ever."""
        self._requests.labels("", "", route, str(status)).inc()

    def operation_ended(self, operation: Operation) -> None:
        if operation.kind != "load":
            return
        labels = operation.model, operation.node or ""
        self._loads.labels(*labels, operation.state.value).inc()
        if operation.finished_at is not None and not operation.error:
            took = operation.finished_at - operation.created_at
            self._load_duration.labels(*labels).observe(took)

    def exposition(self) -> bytes:
        return generate_latest(self.registry)


class _FleetGauges(Collector):
    """Made at each scrape, so that what is gone from the fleet is gone from here."""

    def __init__(self, state: FleetState) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        nodes = self._state.nodes.values()
        up = GaugeMetricFamily("cortex_node_up", "1: it answers", labels=["node"])
        for node in nodes:
            up.add_metric([node.name], float(node.state is not NodeState.DOWN))
        yield up
        in_flight = GaugeMetricFamily(
            "cortex_in_flight", "Requests on a neuron now", labels=_REPLICA
        )
        for (model, name), count in self._state.requests.placed().items():
            in_flight.add_metric([model, name], count)
        yield in_flight
        loaded = GaugeMetricFamily(
            "cortex_model_loaded", "1: ready to serve", labels=_REPLICA
        )
        for node in nodes:
            for copy in node.models.values():
                if copy.state == "ready" and node.state is not NodeState.DOWN:
                    loaded.add_metric([copy.id, node.name], 1)
        yield loaded
