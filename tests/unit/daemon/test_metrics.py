"""The metrics page's shape."""

from prometheus_client.parser import text_string_to_metric_families

from neuron.daemon.metrics import render
from neuron.protocol.types import (
    DeviceHealth,
    Health,
    Model,
    ModelLoad,
    ModelState,
)


def test_what_is_known_is_there_and_what_is_not_is_left_out() -> None:
    health = Health(
        uptime_s=5,
        devices=[DeviceHealth(index=1, vram_used_mb=2, utilization_pct=50)],
        models=[
            ModelLoad(
                id="m",
                in_flight=3,
                kv_pages_total=8,
                rejections={"queue_full": 7},
                unparsed_calls=2,
                queue_waits={"0.5": 2, "+Inf": 3},
                queue_waited_s=9,
            )
        ],
    )
    models = [Model(id="m", state=ModelState.READY, memory_mb=4), Model(id="n")]
    page = render(health, models, {"loads": {"m": 2}}).decode()
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert samples["neuron_uptime_seconds",] == 5
    assert samples["neuron_device_vram_used_bytes", "1"] == 2 * 1024**2
    assert samples["neuron_device_utilization_ratio", "1"] == 0.5
    assert samples["neuron_model_in_flight", "m"] == 3
    assert samples["neuron_model_loads_total", "m"] == 2
    assert samples["neuron_model_rejections_total", "m", "queue_full"] == 7
    assert samples["neuron_model_unparsed_tool_calls_total", "m"] == 2
    assert samples["neuron_model_queue_wait_seconds_bucket", "0.5", "m"] == 2
    assert samples["neuron_model_queue_wait_seconds_count", "m"] == 3
    assert samples["neuron_model_queue_wait_seconds_sum", "m"] == 9
    assert samples["neuron_model_memory_bytes", "m"] == 4 * 1024**2
    assert samples["neuron_model_state", "m", "ready"] == 1
    assert samples["neuron_model_state", "n", "unloaded"] == 1
    names = {name for name, *_ in samples}
    assert "neuron_ram_free_bytes" not in names
    assert "neuron_device_power_watts" not in names
    assert ("neuron_model_memory_bytes", "n") not in samples
