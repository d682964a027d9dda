"""One forward pass of a loaded model whose inputs are on the device already.

What `ExLlamaV2.forward_chunk` does for a paged batch, without its copies from system
memory, so that it can be recorded.
"""

from collections.abc import Callable
from typing import Any, Final

_ROUTED_EXPERTS: Final = (4, 8, 16)
"""Among so many the library's kernels choose by themselves, for a few rows."""
_ROUTED_ROWS: Final = 4
_PACKED: Final = (".q_weight", ".qweight")


def why_not(
    config: Any, devices: set[int], rows: int, *, tensor_parallel: bool
) -> str | None:
    """None where a step of the model can be recorded, else why not.

    Args:
        config: the library's `ExLlamaV2Config`.
        devices: indexes of the GPUs that hold layers.
        rows: tokens of the largest step.
        tensor_parallel: layers are split over GPUs.
    """
    if tensor_parallel:
        return "layers are split over GPUs"
    if len(devices) != 1:
        return f"layers are on {len(devices)} devices"
    if config.arch.lm.keys["learned_pos_emb"]:
        return "the host looks positions up"
    if config.arch.lm.is_moe:
        return _why_not_experts(config, rows)
    return None


def _why_not_experts(config: Any, rows: int) -> str | None:
    """The library asks the host which experts to launch, but for few of both."""
    packed = any(
        ".experts." in name and name.endswith(_PACKED)
        for name in config.tensor_file_map
    )
    if packed and config.num_experts in _ROUTED_EXPERTS and rows <= _ROUTED_ROWS:
        return None
    return f"the host routes {rows} tokens among {config.num_experts} experts"


def paged_forward(
    library: Any, model: Any, cache: Any, page_size: int
) -> Callable[[Any, Any, Any], Any]:
    """A function of (ids, lengths, block table) as `decode_graphs.Forward` says.

    Args:
        library: the imported `exllamav2`.
        model: an `ExLlamaV2` on one device, its embedding there too.
        cache: its cache, with pages of `page_size` tokens.
    """
    import torch

    params = device_params(library, page_size)
    config = model.config
    padding = model.modules[-1].padding

    def forward(ids: Any, lengths: Any, table: Any) -> Any:
        attention = params(lengths, table)
        x = ids
        with torch.inference_mode():
            for module in model.modules:
                x = module.forward(x, cache=cache, attn_params=attention, past_len=0)
            if config.final_logit_softcapping:
                library.ext.ext_c.softcap_(x, config.final_logit_softcapping)
            if padding:
                x[:, :, -padding:] = torch.finfo(torch.float16).min
        return x

    return forward


def device_params(library: Any, page_size: int) -> Callable[[Any, Any], Any]:
    """A maker of the library's `PagedParams` for tensors on the device.

    The constructor of the library's insists on tensors in system memory, and reads
    them; here only their shapes are known. Keys and values are appended by the
    attention, through the block table, and never as one stretch of the cache.
    """

    class DeviceParams(library.attn.ExLlamaV2Attention.PagedParams):  # type: ignore[misc]
        def __init__(self, lengths: Any, table: Any) -> None:
            self.batch_size = table.shape[0]
            self.paged = True
            self.page_size = page_size
            self.block_index = table
            self.cache_seqlens = lengths
            self.max_cache_seqlen = table.shape[1] * page_size
            self.is_sequential = False
            self.alt_rope_embed: dict[str, Any] = {}
            self.rope_offsets = None

        def get_block_index(self, _device: Any) -> Any:
            return self.block_index

        def get_cache_seqlens(self, _device_idx: int) -> Any:
            return self.cache_seqlens

    maker: Callable[[Any, Any], Any] = DeviceParams
    return maker
