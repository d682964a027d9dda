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

    def forward_chunk(self, input_ids: torch.Tensor, **more: Any) -> dict[str, Any]:
        """As the library's."""
        ids = self.known(input_ids)
        result: dict[str, Any] = self._model.forward_chunk(input_ids=ids, **more)
        return result
