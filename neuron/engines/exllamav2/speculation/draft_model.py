"""The model that drafts, as the library's prefill and our generator call it."""

from typing import Any

import torch


class DraftModel:
    """A smaller model with the same tokens, of which it may lack the last few.

    Vocabularies of a family are padded to different sizes; what the draft lacks no
    tokenizer knows, but a prompt of token ids may have it.
    """

    def __init__(self, model: Any, vocab: int) -> None:
        """
        Args:
            model: an `ExLlamaV2`.
            vocab: tokens of the model that it drafts for.
        """
        self.config = model.config
        self._model = model
        self._own: int = model.config.vocab_size
        self.shared = min(vocab, self._own)
        """Tokens that both models have."""

    def known(self, ids: torch.Tensor) -> torch.Tensor:
        """Its last token in place of those that it lacks."""
        return ids.clamp(max=self._own - 1)

    def forward_chunk(
        self, input_ids: torch.Tensor, attn_params: Any, **more: Any
    ) -> dict[str, Any]:
        """As the library's, by the draft's own tables: those that a prompt's images
        bring along are as wide as the heads of the model that it drafts for.
        """
        ids, tables = self.known(input_ids), attn_params.alt_rope_embed
        attn_params.alt_rope_embed = {}
        try:
            result: dict[str, Any] = self._model.forward_chunk(
                input_ids=ids, attn_params=attn_params, **more
            )
        finally:
            attn_params.alt_rope_embed = tables
        return result
