"""Models of transformers with the weights of tokkit's models."""

import dataclasses

import transformers

from tokkit.pretraining.models.architectures import to_transformers
from tokkit.pretraining.models.transformer import Transformer


def peer_of(model: Transformer, attention: str = "eager") -> transformers.BertForPreTraining:
    """Return the model of transformers with the weights of ``model``."""
    config = transformers.BertConfig(
        **dataclasses.asdict(model.config), attn_implementation=attention, pad_token_id=0
    )
    peer = transformers.BertForPreTraining(config)
    missing = peer.load_state_dict(
        to_transformers(model.state_dict(), model.config), strict=False
    ).missing_keys
    assert set(missing) == {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    peer.tie_weights()
    return peer
