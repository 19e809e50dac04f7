import numpy as np
import torch
from flatbatches import pair_instances
from hypothesis import given
from hypothesis import strategies as st

from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.pretraining.data.batches import LENGTH_MULTIPLE, Padding, lay_out
from tokkit.pretraining.data.instance_loader import padded_batch
from tokkit.shards.instances import Instances

PAD_ID = 0

paddings = st.builds(
    Padding,
    tokens=st.integers(1, 100),
    sequences=st.integers(1, 20),
    predictions=st.integers(1, 20),
    max_seqlen=st.sampled_from([None, 30, 64]),
)


@st.composite
def ragged_instances(draw: st.DrawFn) -> Instances:
    lengths = draw(st.lists(st.integers(1, 30), min_size=1, max_size=6))
    masked = [sorted(draw(st.sets(st.integers(0, length - 1), max_size=4))) for length in lengths]
    num_tokens, num_masked = sum(lengths), sum(map(len, masked))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return pair_instances(
        lengths,
        rng.integers(1, 60_000, num_tokens),
        segment_lengths=np.array([draw(st.integers(0, length)) for length in lengths]),
        next_sentence_labels=rng.choice([0, 1, NO_LABEL], len(lengths)),
        masked_positions=masked,
        masked_labels=rng.integers(1, 60_000, num_masked),
    )


@given(ragged_instances())
def test_a_padded_batch_holds_the_instances_and_padding(instances: Instances) -> None:
    batch = padded_batch(instances, PAD_ID)
    lengths = np.diff(instances.offsets)
    B, T = batch["input_ids"].shape
    assert len(lengths) == B
    assert T % LENGTH_MULTIPLE == 0
    assert 0 <= T - lengths.max() < LENGTH_MULTIPLE

    real_BT = torch.arange(T) < torch.from_numpy(lengths)[:, None]
    assert torch.equal(batch["attention_mask"], real_BT.long())
    assert batch["input_ids"][real_BT].tolist() == instances.input_ids.tolist()
    assert (batch["input_ids"][~real_BT] == PAD_ID).all()
    assert batch["labels"][real_BT].tolist() == labels_of(instances)
    assert (batch["labels"][~real_BT] == NO_LABEL).all()
    for row, (types_T, first) in enumerate(
        zip(batch["token_type_ids"], instances.segment_lengths, strict=True)
    ):
        second = lengths[row] - first
        assert types_T.tolist() == [0] * first + [1] * second + [0] * (T - first - second)


def labels_of(instances: Instances) -> list[int]:
    """What is to be predicted at each token."""
    labels = np.full(len(instances.input_ids), NO_LABEL)
    rows = np.repeat(instances.offsets[:-1], np.diff(instances.predictions.offsets))
    labels[rows + instances.predictions.positions] = instances.predictions.labels
    return labels.tolist()


@given(ragged_instances(), paddings)
def test_a_flat_batch_holds_the_instances_and_nothing_else_that_counts(
    instances: Instances, padding: Padding
) -> None:
    batch = lay_out(instances, PAD_ID, padding)
    inputs, lengths = batch.inputs, np.diff(instances.offsets)
    num_tokens, num_rows = len(instances.input_ids), len(lengths)
    assert (batch.num_tokens, batch.num_predicted) == (
        num_tokens,
        len(instances.predictions.labels),
    )
    assert batch.num_pairs == (instances.next_sentence_labels != NO_LABEL).sum()

    assert inputs.input_ids_N[:num_tokens].tolist() == instances.input_ids.tolist()
    assert (inputs.input_ids_N[num_tokens:] == PAD_ID).all()
    assert inputs.cu_seqlens[: num_rows + 1].tolist() == instances.offsets.tolist()
    positions = [place for length in lengths for place in range(length)]
    assert inputs.position_ids_N[:num_tokens].tolist() == positions
    types = np.array(positions) >= np.repeat(instances.segment_lengths, lengths)
    assert inputs.token_type_ids_N[:num_tokens].tolist() == types.tolist()
    labels = torch.full((num_tokens,), NO_LABEL)
    predicted = slice(batch.num_predicted)
    labels[inputs.predicted_positions_M[predicted]] = inputs.labels_M[predicted]
    assert labels.tolist() == labels_of(instances)
    assert inputs.pair_labels_S[:num_rows].tolist() == instances.next_sentence_labels.tolist()

    assert (inputs.labels_M[batch.num_predicted :] == NO_LABEL).all()
    assert (inputs.pair_labels_S[num_rows:] == NO_LABEL).all()
    N, S = len(inputs.input_ids_N), len(inputs.pair_labels_S)
    assert len(inputs.cu_seqlens) == S + 1
    assert inputs.cu_seqlens[-1] == N
    row_lengths = inputs.cu_seqlens.diff().long()
    assert 0 <= row_lengths.min() <= row_lengths.max() <= inputs.max_seqlen
    assert inputs.row_ids_N.tolist() == torch.arange(S).repeat_interleave(row_lengths).tolist()
    assert len(inputs.predicted_positions_M) == len(inputs.labels_M)
    if len(inputs.labels_M):
        assert 0 <= inputs.predicted_positions_M.min() <= inputs.predicted_positions_M.max() < N
    for size, multiple, needed in (
        (N, padding.tokens, num_tokens),
        (len(inputs.labels_M), padding.predictions, batch.num_predicted),
    ):
        assert size % multiple == 0
        assert 0 <= size - needed < multiple
    assert S % padding.sequences == 0


@given(ragged_instances(), paddings)
def test_causal_predictions_are_all_tokens_but_the_first(
    instances: Instances, padding: Padding
) -> None:
    batch = lay_out(instances, PAD_ID, padding, causal=True)
    inputs, predicted = batch.inputs, slice(batch.num_predicted)
    places = inputs.predicted_positions_M[predicted]
    assert torch.equal(inputs.input_ids_N[places + 1], inputs.labels_M[predicted])
    assert torch.equal(inputs.row_ids_N[places + 1], inputs.row_ids_N[places])
    assert (places.diff() > 0).all()
    assert batch.num_predicted == batch.num_tokens - len(instances.segment_lengths)
    assert (inputs.labels_M[batch.num_predicted :] == NO_LABEL).all()
