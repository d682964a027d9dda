"""One run of a sequence through the generator: its pages, until it gives them up.

The library's job hashes the prompt, finds cached pages and prefills. What it does per
token of output is replaced: no text, no filters, no settings of its own, and pages are
taken as they are needed instead of up front.
"""

from collections.abc import Sequence
from heapq import nsmallest
from operator import attrgetter
from typing import Any

import torch
from exllamav2.generator.dynamic import ExLlamaV2DynamicJob, _tensor_hash_checksum

from neuron.engines.exllamav2.vision.eyes import SeenImage


class PagedJob(ExLlamaV2DynamicJob):  # type: ignore[misc]
    """Tokens to continue. It has pages from `allocate_pages` to `give_back`."""

    def __init__(
        self,
        tokens: Sequence[int],
        pages: int,
        page_size: int,
        images: Sequence[SeenImage] = (),
    ) -> None:
        """Of `tokens`, at least one, that starts with `pages`, enough for them.

        `images` have their embeddings by the time that their tokens are computed.
        """
        super().__init__(
            input_ids=torch.tensor([tokens], dtype=torch.long),
            max_new_tokens=pages * page_size - len(tokens),
            embeddings=list(images),
        )
        self.page_size = page_size
        self._sequence = self.sequences[0]
        self._tokens = len(tokens)

    def limit_reuse(self, pages: int) -> None:
        """Look for at most so many pages in the cache; the others are computed anew.

        To be called once, between `prepare_for_queue` and `allocate_pages`.
        """
        unwanted = len(self._sequence.page_hashes) - pages
        if unwanted > 0:
            del self._sequence.page_hashes[pages:]
            self._sequence.new_unique_pages += unwanted
            self.all_unique_hashes = list(set(self._sequence.page_hashes))

    @property
    def computed(self) -> int:
        """Tokens whose keys and values are in the cache."""
        return int(self._sequence.kv_position)

    @property
    def turned_back(self) -> int:
        """By how much its next position is less than the tokens before it, as a number
        that is not above 0: for some models an image takes fewer than it has tokens.
        """
        return int(self.alt_rope_offset)

    def forget_tables(self) -> None:
        """The prompt is computed; what comes is turned by the model's own tables."""
        self.alt_rope_embed.clear()

    @property
    def held(self) -> int:
        """Pages that it holds."""
        return len(self._sequence.allocated_pages or ())

    @property
    def reused(self) -> int:
        """Tokens that were in the cache when it needed them."""
        return int(self.cached_pages * self.page_size + self.cached_tokens)

    def is_prefill_done(self) -> bool:
        """Whether only the last token is left to compute."""
        return self.computed >= self._tokens - 1

    @property
    def row(self) -> torch.Tensor:
        """Indices of its pages, int32 [pages] on the CPU; the same object until they
        change."""
        if self._sequence.block_index_tensor is None:
            self.get_block_index(self._sequence, 0)
        row: torch.Tensor = self._sequence.block_index_tensor
        return row

    def grow(self, pages: int) -> None:
        """Hold so many more, which must be there: those unused longest."""
        generator, held = self.generator, self._sequence.allocated_pages
        oldest = nsmallest(
            pages, generator.unreferenced_pages.values(), attrgetter("access_serial")
        )
        for page in oldest:
            generator.access_serial += 1
            page.add_ref_unique(generator.access_serial)
            held.append(page)
        self._sequence.block_index_tensor = None

    def overwrite(self, tokens: int) -> None:
        """The next pass writes so many behind what is computed.

        Whether they count or not, what was in the pages is lost, and cannot be found
        again when they are given back.
        """
        first = self.computed // self.page_size
        end = -(-(self.computed + tokens) // self.page_size)
        for page in self._sequence.allocated_pages[first:end]:
            page.can_revert = False

    def behind(self, tokens: int) -> list[slice]:
        """Where in the cache those tokens are written, up to each page's end."""
        size = self.page_size
        first, offset = divmod(self.computed, size)
        end = -(-(self.computed + tokens) // size)
        pages = self._sequence.allocated_pages[first:end]
        starts = [page.page_index * size for page in pages]
        return [
            slice(start + offset * (number == 0), start + size)
            for number, start in enumerate(starts)
        ]

    def advance(self, tokens: Sequence[int]) -> None:
        """The next tokens' keys and values are in the cache; full pages get names."""
        sequence, size = self._sequence, self.page_size
        done = 0
        while done < len(tokens):
            index, offset = divmod(sequence.kv_position, size)
            part = tokens[done : done + size - offset]
            page = sequence.allocated_pages[index]
            if offset == 0:
                # The library only sets it for pages that a prefill came near, and one
                # without it would be taken for the beginning of a prompt.
                page.prev_hash = self._name_before(index)
            end = offset + len(part)
            page.sequence.numpy()[0, offset:end] = part  # far quicker than by torch
            page.kv_position = end
            page.can_revert = False
            sequence.kv_position += len(part)
            done += len(part)
            if end == size:
                self._name(index)

    def give_back(self, *, keep: bool = True) -> list[int]:
        """Let go of all pages; returns the indices of those that nobody else holds.

        Their contents can be found again unless `keep` is false.
        """
        generator, pages = self.generator, self._sequence.allocated_pages or []
        free = []
        for page in reversed(pages):  # so that the end of a prefix is evicted first
            name = page.phash_revert if page.can_revert else page.phash
            if not page.can_revert:
                generator.access_serial += 1
                page.access_serial = generator.access_serial
            page.sub_ref()
            if page.ref_count:
                continue
            free.append(page.page_index)
            if not keep:
                page.clear()
            elif page.phash != name:
                # Another page has the name it would have had. The library leaves the
                # contents findable as the beginning of a prompt, which they may not be.
                page.kv_position = 0
        self._sequence.allocated_pages = []
        self._sequence.block_index_tensor = None
        return free

    def _name_before(self, index: int) -> bytes | None:
        if index == 0:
            return None
        name: bytes = self._sequence.allocated_pages[index - 1].phash
        return name

    def _name(self, index: int) -> None:
        """The page is full: from now on its contents can be found and shared."""
        generator, pages = self.generator, self._sequence.allocated_pages
        page = pages[index]
        name = _tensor_hash_checksum(page.sequence, self._name_before(index))
        same: Any = generator.referenced_pages.get(name)
        if same is None:
            if name in generator.unreferenced_pages:
                generator.unreferenced_pages[name].clear()
            page.update_hash(name)
        elif same.kv_position == generator.page_size:
            page.sub_ref()
            same.add_ref(page.access_serial)
            pages[index] = same
            self._sequence.block_index_tensor = None
        # Otherwise another request is about to compute the same page. The library
        # asserts that this cannot be; here each keeps its own.
