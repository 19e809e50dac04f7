import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokkit.pretraining.data import NO_LABEL, Instances
from tokkit.pretraining.padded import LENGTH_MULTIPLE, pad_instances

PAD_ID = 0


@st.composite
def ragged_instances(draw: st.DrawFn) -> Instances:
    lengths = draw(st.lists(st.integers(1, 30), min_size=1, max_size=6))
    masked = [sorted(draw(st.sets(st.integers(0, length - 1), max_size=4))) for length in lengths]
    num_tokens, num_masked = sum(lengths), sum(map(len, masked))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return Instances(
        input_ids=rng.integers(1, 60_000, num_tokens).astype(np.uint16),
        offsets=np.cumsum([0, *lengths]),
        segment_lengths=np.array([draw(st.integers(0, length)) for length in lengths]),
        documents=np.zeros(len(lengths), np.uint64),
        next_sentence_labels=rng.choice([0, 1, NO_LABEL], len(lengths)),
        masked_positions=np.array([p for row in masked for p in row], np.int64),
        masked_labels=rng.integers(1, 60_000, num_masked).astype(np.uint16),
        masked_offsets=np.cumsum([0, *map(len, masked)]),
        word_starts=np.zeros(0, np.uint8),
    )


@given(ragged_instances())
def test_a_batch_holds_the_instances_and_padding(instances: Instances) -> None:
    batch = pad_instances(instances, PAD_ID)
    lengths = np.diff(instances.offsets)
    B, T = batch.input_ids_BT.shape
    assert len(lengths) == B
    assert T % LENGTH_MULTIPLE == 0
    assert 0 <= T - lengths.max() < LENGTH_MULTIPLE

    real_BT = torch.arange(T) < torch.from_numpy(lengths)[:, None]
    if batch.attention_mask_BT is None:
        assert real_BT.all()
    else:
        assert not real_BT.all()
        assert torch.equal(batch.attention_mask_BT, real_BT)
    assert batch.input_ids_BT[real_BT].tolist() == instances.input_ids.tolist()
    assert (batch.input_ids_BT[~real_BT] == PAD_ID).all()
    for row, (types_T, first) in enumerate(
        zip(batch.token_type_ids_BT, instances.segment_lengths, strict=True)
    ):
        second = lengths[row] - first
        assert types_T.tolist() == [0] * first + [1] * second + [0] * (T - first - second)
    assert batch.next_sentence_labels_B.tolist() == instances.next_sentence_labels.tolist()
    assert batch.num_tokens == lengths.sum()
    assert batch.num_pairs == (instances.next_sentence_labels != NO_LABEL).sum()


@given(ragged_instances())
def test_masked_positions_point_into_the_padded_batch(instances: Instances) -> None:
    batch = pad_instances(instances, PAD_ID)
    width = batch.input_ids_BT.shape[1]
    rows = np.repeat(np.arange(len(instances.offsets) - 1), np.diff(instances.masked_offsets))
    expected = [
        int(instances.input_ids[instances.offsets[row] + position])
        for row, position in zip(rows, instances.masked_positions, strict=True)
    ]
    assert batch.input_ids_BT.flatten()[batch.masked_positions_M].tolist() == expected
    assert (batch.masked_positions_M // width).tolist() == rows.tolist()
    assert batch.masked_labels_M.tolist() == instances.masked_labels.tolist()
    assert batch.num_masked == len(instances.masked_positions)
