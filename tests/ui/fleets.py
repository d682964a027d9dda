"""Fleets to look at: the same moment, every time."""

import math

from neuron.protocol.types import Device, DeviceHealth, LoadProgress, ModelState
from services.schema import (
    FleetEvent,
    FleetSnapshot,
    GatewayView,
    KeyList,
    KeyView,
    ModelView,
    NodeState,
    NodeView,
    Operation,
    Replica,
    RequestPhase,
    RequestView,
    Sample,
)

NOW = 1_760_000_000.0
"""2025-10-09 08:53:20 UTC."""


def node(
    name: str, gpu: str, total: int, used: int, util: int, **fields: object
) -> NodeView:
    live = DeviceHealth(
        index=0,
        vram_used_mb=used,
        vram_free_mb=total - used,
        utilization_pct=util,
        temperature_c=30 + util // 2,
        power_w=20 + 4.0 * util,
        power_limit_w=450,
    )
    return NodeView.model_validate(
        {
            "name": name,
            "endpoint": f"http://{name}:13131",
            "state": NodeState.READY,
            "version": "0.1.0",
            "devices": [Device(index=0, name=gpu, vram_total_mb=total)],
            "live": [live],
            "ram_total_mb": 131072,
            "ram_free_mb": 100000,
            "last_seen": NOW - 0.5,
            **fields,
        }
    )


def model(name: str, state: ModelState, *nodes: str, **fields: object) -> ModelView:
    memory = fields.pop("memory_mb", None)
    progress = fields.pop("progress", None)
    error = fields.pop("error", None)
    replicas = [
        Replica.model_validate(
            {
                "node": where,
                "state": state,
                "memory_mb": memory,
                "progress": progress,
                "error": error,
                "slots": 4 if state == ModelState.READY else None,
                "max_seq_len": 16384 if state == ModelState.READY else None,
            }
        )
        for where in nodes
    ]
    return ModelView.model_validate(
        {
            "id": name,
            "state": state,
            "replicas": replicas,
            "format": "exl2",
            "bpw": 4.5,
            "context": 32768,
            "weight_bytes": 14_600 * 2**20,
            "capabilities": ["completion", "chat"],
            **fields,
        }
    )


def _history() -> list[Sample]:
    return [
        Sample(
            time=NOW - 299 + second,
            tok_s=max(0.0, 900 + 500 * math.sin(second / 23)) if second > 20 else 0,
            running=round(6 + 4 * math.sin(second / 17)),
            waiting=2 if second % 90 > 70 else 0,
            ttft_s=0.25 + 0.1 * math.sin(second / 31) if second % 3 == 0 else None,
        )
        for second in range(300)
    ]


def _events() -> list[FleetEvent]:
    lines = (
        ("info", "node", "atlas is ready (NVIDIA H100 80GB)"),
        ("info", "pin", "bge-m3 pinned by op@laptop"),
        ("warning", "node", "dione: no answer for 3 s"),
        ("error", "fail", "phi-4-14b on castor: out of memory (needs 9.1G, free 5.6G)"),
        ("info", "unload", "mistral-small-24b from boreas, 14.6G freed"),
        ("info", "load", "gemma-3-27b-q5 on boreas"),
    )
    return [
        FleetEvent.model_validate(
            {
                "seq": seq,
                "time": NOW - 600 + 100 * seq,
                "level": level,
                "kind": kind,
                "text": text,
            }
        )
        for seq, (level, kind, text) in enumerate(lines, 1)
    ]


def _requests() -> list[RequestView]:
    lines = (
        ("req-9f2c", "aider", "qwen3-32b", "atlas", 41.2, 0.22, 3912, 96.0),
        ("req-9f2d", "open-webui", "llama-3.3-70b", "boreas", 30.6, 0.71, 3802, 128.0),
        ("req-9f31", "n8n", "qwen3-32b", "atlas", 6.4, 0.24, 870, 139.0),
        ("req-9f36", "zed", "qwen3-coder-30b", "castor", 0.6, None, 0, None),
    )
    return [
        RequestView(
            id=id_,
            client=client,
            model=name,
            node=where,
            route="/v1/chat/completions",
            phase=RequestPhase.DECODING if ttft else RequestPhase.WAITING,
            started_at=NOW - age,
            ttft_s=ttft,
            tokens=tokens,
            tok_s=speed,
        )
        for id_, client, name, where, age, ttft, tokens, speed in lines
    ]


def big() -> FleetSnapshot:
    """Four nodes, every state, requests in every phase."""
    ready, unloaded = ModelState.READY, ModelState.UNLOADED
    models = [
        model("qwen3-32b", ready, "atlas", memory_mb=39100, pinned=True, running=2,
              tok_s=235.0, ttft_s=0.24, requests=61, last_used=NOW),
        model("llama-3.3-70b", ready, "boreas", memory_mb=42700, running=1,
              tok_s=128.0, ttft_s=0.61, requests=22, last_used=NOW),
        model("qwen3-coder-30b", ready, "castor", memory_mb=18500, running=0,
              waiting=1, tok_s=0.0, ttft_s=0.31, requests=38, errors=1,
              last_used=NOW - 2),
        model("bge-m3", ready, "atlas", "boreas", memory_mb=2360, pinned=True,
              tok_s=0.0, ttft_s=0.02, requests=140, last_used=NOW - 48),
        model("gemma-3-27b-q5", ModelState.LOADING, "boreas",
              progress=LoadProgress(stage="weights", done=43, total=100)),
        model("phi-4-14b", ModelState.FAILED, "castor", error="out of memory",
              last_used=NOW - 380),
        model("mistral-small-24b", unloaded, "boreas", last_used=NOW - 640),
        model("deepseek-r1-32b", unloaded, "atlas", "boreas"),
        model("nomic-embed-v2", unloaded, "castor", weight_bytes=600 * 2**20),
    ]  # fmt: skip
    nodes = [
        node("atlas", "NVIDIA H100 80GB", 81559, 41900, 91, tok_s=235.0, running=2),
        node("boreas", "NVIDIA A100 80GB", 81920, 54700, 64, tok_s=128.0, running=1),
        node("castor", "NVIDIA GeForce RTX 4090", 24564, 18840, 38, tok_s=0.0,
             running=0, waiting=1),
        node("dione", "NVIDIA GeForce RTX 3090", 24576, 300, 0,
             state=NodeState.STALE, last_seen=NOW - 4, tok_s=0.0),
    ]  # fmt: skip
    return FleetSnapshot(
        seq=6,
        time=NOW,
        gateway=_gateway(),
        nodes=nodes,
        models=models,
        requests=_requests(),
        operations=[
            Operation(id="op-0", kind="load", model="gemma-3-27b-q5", node="boreas")
        ],
        events=_events(),
        history=_history(),
    )


def keys() -> KeyList:
    """One of each kind: free, limited, nearly and wholly spent, revoked."""
    day = 86_400.0
    alice = KeyView(
        id="h7kq2m9x", name="alice", scope="admin", models=["*"], window="30d",
        renews_at=NOW + 11 * day, last_used=NOW - 4, requests=212,
        prompt_tokens=1_480_000, completion_tokens=96_000, cached_tokens=1_100_000,
        priority=10, last_minute_requests=4, last_minute_tokens=18_300,
    )  # fmt: skip
    return KeyList(
        path="/home/op/.config/cortex/keys.toml",
        required=True,
        keys=[
            alice,
            alice.model_copy(
                update={
                    "id": "x3vd8wpa", "name": "ci pipeline", "scope": "inference",
                    "models": ["qwen3-*", "bge-m3"], "budget_tokens": 1_700_000,
                    "requests_per_minute": 60, "tokens_per_minute": 200_000,
                    "priority": -10, "last_used": NOW - 7500,
                }
            ),
            alice.model_copy(
                update={
                    "id": "m2zt6ysc", "name": "open-webui", "scope": "inference",
                    "budget_cost": 5.0, "cost": 5.012, "window": "1d",
                    "renews_at": NOW + 5 * 3600, "priority": 0,
                    "requests_per_minute": 4,
                }
            ),
            KeyView(
                id="q9fb4rjn", name="wallboard", scope="read-only", models=["*"],
                window="30d", renews_at=NOW + 29 * day,
            ),
            alice.model_copy(
                update={"id": "t5gc7hkd", "name": "bob", "revoked": True}
            ),
        ],
    )  # fmt: skip


def small() -> FleetSnapshot:
    """This host alone: no GPU, the bundled model, nothing loaded."""
    return FleetSnapshot(
        seq=1,
        time=NOW,
        gateway=_gateway(),
        nodes=[
            NodeView(
                name="local",
                endpoint="http://127.0.0.1:13131",
                state=NodeState.READY,
                version="0.1.0",
                ram_total_mb=16000,
                ram_free_mb=11200,
                last_seen=NOW,
            )
        ],
        models=[
            ModelView(
                id="tinystories-15m",
                format="exl2",
                bpw=4.5,
                context=1024,
                weight_bytes=11 * 2**20,
                capabilities=["completion"],
                replicas=[Replica(node="local")],
            )
        ],
        events=[
            FleetEvent(seq=1, time=NOW - 3, kind="node", text="local is ready (no GPU)")
        ],
    )


def _gateway() -> GatewayView:
    return GatewayView(
        version="0.1.0",
        pid=4121,
        url="http://127.0.0.1:31313",
        started_at=NOW - 273_600,
    )
