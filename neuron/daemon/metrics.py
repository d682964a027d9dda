"""`/metrics` in Prometheus' text format, from the same caches as `/health`."""

from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from neuron.protocol.types import Health, Model, ModelState

_MIB: Final = 1024 * 1024


class _Snapshot(Collector):
    def __init__(self, health: Health, models: list[Model]) -> None:
        self._health = health
        self._models = models

    def collect(self) -> Iterator[Metric]:
        health = self._health
        yield _gauge("neuron_uptime_seconds", "", [((), health.uptime_s)])
        yield _gauge("neuron_ram_free_bytes", "", [((), _bytes(health.ram_free_mb))])
        yield from self._model_metrics()
        for name, unit, field, factor in _DEVICE_METRICS:
            rows = [
                (
                    (str(d.index),),
                    None if (v := getattr(d, field)) is None else v * factor,
                )
                for d in health.devices
            ]
            yield _gauge(f"neuron_device_{name}{unit}", "device", rows)

    def _model_metrics(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "neuron_model_state", "1 for the state it is in.", labels=["model", "state"]
        )
        for model in self._models:
            for possible in ModelState:
                state.add_metric([model.id, possible], float(model.state is possible))
        yield state
        memory = [((m.id,), _bytes(m.memory_mb)) for m in self._models]
        yield _gauge("neuron_model_memory_bytes", "model", memory)
        for name, field in _LOAD_METRICS:
            rows = [((m.id,), getattr(m, field)) for m in self._health.models]
            yield _gauge(f"neuron_model_{name}", "model", rows)


_DEVICE_METRICS: Final = (
    ("vram_used", "_bytes", "vram_used_mb", _MIB),
    ("vram_free", "_bytes", "vram_free_mb", _MIB),
    ("vram_ours", "_bytes", "vram_ours_mb", _MIB),
    ("utilization", "_ratio", "utilization_pct", 0.01),
    ("temperature", "_celsius", "temperature_c", 1),
    ("power", "_watts", "power_w", 1),
)
_LOAD_METRICS: Final = (
    ("in_flight", "in_flight"),
    ("queued", "queued"),
    ("kv_pages_used", "kv_pages_used"),
    ("kv_pages_total", "kv_pages_total"),
    ("decode_tokens_per_second", "decode_tok_s"),
    ("prefill_tokens_per_second", "prefill_tok_s"),
    ("heartbeat_age_seconds", "heartbeat_age_s"),
)


def _bytes(mb: int | None) -> int | None:
    return None if mb is None else mb * _MIB


def _gauge(
    name: str, label: str, rows: Iterable[tuple[tuple[str, ...], float | None]]
) -> GaugeMetricFamily:
    """Unknown values are left out, so that they cannot be read as zero."""
    family = GaugeMetricFamily(
        name, name.replace("_", " "), labels=[label] if label else []
    )
    for labels, value in rows:
        if value is not None:
            family.add_metric(list(labels), value)
    return family


def render(health: Health, models: list[Model]) -> bytes:
    """The whole page."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(health, models))
    return generate_latest(registry)
