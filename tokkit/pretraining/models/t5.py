"""T5 (Raffel et al. 2020, arXiv:1910.10683) in version 1.1, for ``span-corruption``.

An encoder reads the inputs, in which sentinels stand for the spans that are missing; a decoder
predicts the targets, each token from those before it and from the encoder's output. Both are pre-norm,
without biases; norms only scale. A position enters as a number that is added to the scores of
attention, learned for each head and distance: distances are in buckets, which widen with the distance. All
layers of a stack share these numbers. Scores are not divided by a root; the weights are drawn so that
they need not be. The feed-forward network is a GeGLU, and the head is no word embedding.

It computes what ``transformers.T5ForConditionalGeneration`` computes.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from tokkit.pretraining.models.encoder_decoder import EncoderDecoder
from tokkit.pretraining.models.t5_layers import (
    DecoderLayer,
    EncoderLayer,
    RelativePositions,
    T5Config,
)
from tokkit.pretraining.models.transformer import (
    Architecture,
    Embeddings,
    Inputs,
)
from tokkit.tokenizer.tokenizer import Tokenizer


class T5(EncoderDecoder):
    """The encoder, ``layers``, and the decoder, each with positions and a last norm."""

    config: T5Config

    def __init__(self, config: T5Config) -> None:
        super().__init__(
            config,
            Embeddings(config),
            (EncoderLayer(config) for _ in range(config.num_hidden_layers)),
            (DecoderLayer(config) for _ in range(config.num_decoder_layers)),
        )
        self.positions = RelativePositions(config, is_causal=False)
        self.decoder_positions = RelativePositions(config, is_causal=True)
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder_norm = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.padded_vocab_size, bias=False)

    def initialize(self) -> None:
        """Draw the weights: words by 1, others so that their outputs vary by 1, as published.

        The head too; ``transformers`` draws it by 1, with which losses start at hundreds.
        """
        config = self.config
        D, HK = config.hidden_size, config.inner_size
        sizes = {"words": 1, "output": HK, "down": config.intermediate_size}
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                size = sizes.get(name.rsplit(".", 1)[-1], D)
                nn.init.normal_(module.weight, std=config.initializer_factor * size**-0.5)
            if name.endswith(".qkv"):  # of scores, which are not divided by a root
                module.weight.data[:HK] *= config.d_kv**-0.5
            elif name.endswith(".query"):
                module.weight.data *= config.d_kv**-0.5

    @property
    def decoder_weight(self) -> Tensor:
        """The weight of the head."""
        return self.lm_head.weight

    def encode(self, inputs: Inputs) -> Tensor:
        """Return the encoder's output, x_ND."""
        x_ND, bias_SHTT = self._look_up(inputs), self.positions(inputs.max_seqlen)
        for layer in self.layers:
            x_ND = layer(x_ND, inputs, bias_SHTT)
        return self._drop(self.norm(x_ND))

    def decode(self, targets: Inputs, x_ND: Tensor, inputs: Inputs) -> Tensor:
        """Return the output of the last norm, y_MD, for what the decoder reads."""
        y_MD, bias_SHTT = self._look_up(targets), self.decoder_positions(targets.max_seqlen)
        for layer in self.decoder_layers:
            y_MD = layer(y_MD, targets, bias_SHTT, x_ND, inputs)
        return self._drop(self.decoder_norm(y_MD))

    def _look_up(self, inputs: Inputs) -> Tensor:
        return self._drop(self.embeddings.words(inputs.input_ids_N))

    def _drop(self, x_ND: Tensor) -> Tensor:
        return F.dropout(x_ND, self.config.hidden_dropout_prob, self.training)


def describe_t5(config: T5Config, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what ``config.json`` says of a T5."""
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "pad_token_id": config.decoder_start_token_id,
        "eos_token_id": tokenizer.end_of_text_id(),
        "tie_word_embeddings": False,
    }


def read_t5(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the contents of ``config.json``.

    transformers 5 writes ``tie_word_embeddings: true`` for version 1.1 too, which it knows by the other.

    Raises:
        ValueError: if it is version 1.0, whose head is the word embedding.
    """
    if data["tie_word_embeddings"] and data["scale_decoder_outputs"]:
        raise ValueError("tie_word_embeddings is true, as in T5 1.0, which is not supported")
    return data


ATTENTION = "layer.0.SelfAttention"
FED = "DenseReluDense"
T5_ARCHITECTURE = Architecture(
    model_type="t5",
    objectives=("span-corruption", "translation"),
    build=T5,
    outer={
        "embeddings.words": "shared",
        "positions.buckets": f"encoder.block.0.{ATTENTION}.relative_attention_bias",
        "decoder_positions.buckets": f"decoder.block.0.{ATTENTION}.relative_attention_bias",
        "norm": "encoder.final_layer_norm",
        "decoder_norm": "decoder.final_layer_norm",
        "lm_head": "lm_head",
    },
    layer="encoder.block.{}",
    inner={
        "attention.norm": ("layer.0.layer_norm",),
        "attention.qkv": tuple(f"{ATTENTION}.{part}" for part in "qkv"),
        "attention.output": (f"{ATTENTION}.o",),
        "feed_forward.norm": ("layer.1.layer_norm",),
        "feed_forward.up": (f"layer.1.{FED}.wi_0", f"layer.1.{FED}.wi_1"),
        "feed_forward.down": (f"layer.1.{FED}.wo",),
    },
    decoder_layer="decoder.block.{}",
    decoder_inner={
        "attention.norm": ("layer.0.layer_norm",),
        "attention.qkv": tuple(f"{ATTENTION}.{part}" for part in "qkv"),
        "attention.output": (f"{ATTENTION}.o",),
        "cross_attention.norm": ("layer.1.layer_norm",),
        "cross_attention.query": ("layer.1.EncDecAttention.q",),
        "cross_attention.kv": ("layer.1.EncDecAttention.k", "layer.1.EncDecAttention.v"),
        "cross_attention.output": ("layer.1.EncDecAttention.o",),
        "feed_forward.norm": ("layer.2.layer_norm",),
        "feed_forward.up": (f"layer.2.{FED}.wi_0", f"layer.2.{FED}.wi_1"),
        "feed_forward.down": (f"layer.2.{FED}.wo",),
    },
    describe=describe_t5,
    config={
        "hidden_size": "d_model",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "d_ff",
        "max_position_embeddings": "n_positions",
        "type_vocab_size": None,
        "hidden_dropout_prob": "dropout_rate",
        "attention_probs_dropout_prob": "dropout_rate",
        "layer_norm_eps": "layer_norm_epsilon",
        "initializer_range": None,
    },
    config_class=T5Config,
    defaults={
        "d_kv": 64,
        "n_positions": 512,
        "layer_norm_epsilon": 1e-6,
        "initializer_factor": 1.0,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "decoder_start_token_id": 0,
        "feed_forward_proj": "relu",
        "tie_word_embeddings": True,
        "scale_decoder_outputs": True,
    },
    supported={"feed_forward_proj": ("gated-gelu",)},
    read=read_t5,
    redundant=("coder.embed_tokens.weight", "EncDecAttention.relative_attention_bias.weight"),
)
