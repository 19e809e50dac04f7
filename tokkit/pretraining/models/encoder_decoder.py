"""An encoder and a decoder, which reads the targets before each target and the encoder's output.

The decoder begins with the id of padding. Two instances with targets of 2 and 1 tokens are M = 3
predictions:

    labels_M            7 8 9      target_cu_seqlens    0 2 3
    decoder's inputs    0 7 0      decoder's positions  0 1 0
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

import msgspec
from torch import Tensor, nn

from tokkit.engine.json_files import Size
from tokkit.pretraining.models.attention import index_targets
from tokkit.pretraining.models.transformer import Embeddings, Inputs, ModelConfig, Transformer
from tokkit.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig(ModelConfig):
    """The shape of both stacks. Positions are computed, so that there is no last one.

    Attributes:
        num_feed_forward: matrices of a feed-forward network.
    """

    equal_fields: ClassVar[Mapping[str, str]] = {"num_decoder_layers": "num_hidden_layers"}
    limits_length: ClassVar[bool] = False
    num_feed_forward: ClassVar[int] = 2

    num_decoder_layers: Size
    decoder_start_token_id: Annotated[int, msgspec.Meta(ge=0)] = 0

    @property
    def inner_size(self) -> int:
        """The size of the queries of all heads together."""
        return self.hidden_size

    def count_layer_weights(self) -> int:
        """Return how many numbers the matrices of all layers have."""
        feed_forward = self.num_feed_forward * self.intermediate_size
        encoder = self.num_hidden_layers * (4 * self.inner_size + feed_forward)
        decoder = self.num_decoder_layers * (8 * self.inner_size + feed_forward)
        return self.hidden_size * (encoder + decoder)

    def fit(self, tokenizer: Tokenizer) -> Self:
        """Return the shape of the same model with the vocabulary of a tokenizer."""
        return replace(super().fit(tokenizer), decoder_start_token_id=tokenizer.special_ids["pad"])


class EncoderDecoder(Transformer):
    """The encoder, ``layers``, and the decoder; both share the token embedding."""

    config: EncoderDecoderConfig

    def __init__(
        self,
        config: EncoderDecoderConfig,
        embeddings: Embeddings,
        layers: Iterable[nn.Module],
        decoder_layers: Iterable[nn.Module],
    ) -> None:
        super().__init__(config, embeddings, layers)
        self.decoder_layers = nn.ModuleList(decoder_layers)

    def predict(self, x_ND: Tensor, inputs: Inputs) -> Tensor:
        """Return the output of the decoder, y_MD, for the encoder's."""
        targets = index_targets(inputs)
        shifted_M = targets.input_ids_N.roll(1).clamp(min=0)  # targets of padding have no label
        start = self.config.decoder_start_token_id
        shifted_M = shifted_M.masked_fill(targets.position_ids_N == 0, start)
        return self.transform(self.decode(targets._replace(input_ids_N=shifted_M), x_ND, inputs))

    def decode(self, targets: Inputs, x_ND: Tensor, inputs: Inputs) -> Tensor:
        """Return the output of the last layer, y_MD, for what the decoder reads."""
        raise NotImplementedError

    def list_layers(self) -> list[nn.Module]:
        """Return the layers of both stacks."""
        return [*self.layers, *self.decoder_layers]

    def count_attended(self, length: float, predicted_share: float = 0.0) -> float:
        """Return how many tokens a token of the inputs and its share of targets attend to."""
        config, num_targets = self.config, length * predicted_share
        own = config.num_hidden_layers * length
        of_targets = config.num_decoder_layers * (num_targets / 2 + length)
        return (own + predicted_share * of_targets) * config.inner_size / config.hidden_size

    def count_layer_parameters(self) -> int:
        """Return how many parameters a token of the inputs passes."""
        return super().count_layer_parameters() + self._count_cross()

    def count_head_parameters(self) -> int:
        """Return how many parameters a target passes."""
        decoder = sum(parameter.numel() for parameter in self.decoder_layers.parameters())
        return decoder - self._count_cross() + super().count_head_parameters()

    def _count_cross(self) -> int:
        """Return how many parameters of the decoder the encoder's output passes."""
        config = self.config
        return config.num_decoder_layers * 2 * config.inner_size * config.hidden_size
