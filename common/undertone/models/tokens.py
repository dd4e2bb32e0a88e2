"""Captions as token ids, and placeholder tokens whose embedding differs from row to row of a batch.

transformers 5 gives CLIPTextModel no `inputs_embeds`, so rows are put in by a forward hook on the
token embedding: wherever a placeholder's id stands, row i of the batch reads its own vector.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from undertone.core.captions import placeholders
from undertone.models.interface import Base


def token_ids(base: Base, captions: Sequence[str]) -> Tensor:
    """Captions -> token ids [n, positions], padded as the pipeline pads prompts."""
    tokenizer = base.pipeline.tokenizer
    encoded = tokenizer(
        list(captions),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    ids: Tensor = encoded.input_ids.to(base.device)
    return ids


class RowTokens:
    """Adds placeholders of `vectors` tokens each to a loaded base and lets each row bring its own embeddings."""

    def __init__(self, base: Base, words: Sequence[str], vectors: int) -> None:
        self.base = base
        self._spelled = {word: placeholders(word, vectors) for word in words}
        self.names = [name for names in self._spelled.values() for name in names]
        tokenizer, encoder = base.pipeline.tokenizer, base.pipeline.text_encoder
        tokenizer.add_tokens(self.names)
        if len(tokenizer) > encoder.get_input_embeddings().num_embeddings:
            encoder.resize_token_embeddings(len(tokenizer))
            encoder.requires_grad_(False)
        self.ids = tokenizer.convert_tokens_to_ids(self.names)

    def tokenise(self, captions: Sequence[str]) -> Tensor:
        """Captions -> token ids [n, positions]; each placeholder becomes its `vectors` tokens."""
        full = list(captions)
        for word, names in self._spelled.items():
            full = [caption.replace(word, " ".join(names)) for caption in full]
        return token_ids(self.base, full)

    @contextmanager
    def bound(self, rows: Tensor) -> Iterator[None]:
        """Within, row i of any batch reads `rows[i]` ([n, words * vectors, width]) at its placeholders."""

        def put_in(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            for index, token_id in enumerate(self.ids):
                here = (args[0] == token_id)[..., None]
                output = torch.where(here, rows[:, index, None, :].to(output.dtype), output)
            return output

        handle = self.base.pipeline.text_encoder.get_input_embeddings().register_forward_hook(put_in)
        try:
            yield
        finally:
            handle.remove()
