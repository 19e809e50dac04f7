"""A vocabulary is learned from a sample of documents, the same for any plan, and of about its size."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from trainruns import run

from reference.statistics import share_z
from tokkit.engine.spec import shared_folder
from tokkit.errors import TokkitError, UsageError
from tokkit.vocab import drawn_documents, train
from tokkit.vocab.counting import CountedCorpus, count_corpus
from tokkit.vocab.drawn_documents import find_held_out
from tokkit.vocab.train_config import TrainConfig


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """32,000 documents of 50 to 90 bytes, as plain text, records and compressed text."""
    folder = tmp_path_factory.mktemp("sample")
    texts = [f"Café {n} naïve dog's {n % 37}. 中文 w{n}{' more' * (n % 9)}" for n in range(32_000)]
    (folder / "a.txt").write_text("\n\n".join(texts[:16_000]))
    records = [
        json.dumps({"text": text, "url": f"https://example.org/{text[:9]}"}) for text in texts
    ]
    (folder / "b.jsonl").write_text("\n".join(records[16_000:26_000]))
    (folder / "c.txt.gz").write_bytes(gzip.compress("\n\n".join(texts[26_000:]).encode()))
    return tuple(map(str, sorted(folder.iterdir())))


def count(config: TrainConfig) -> CountedCorpus:
    plan = train.plan_training(config)
    with shared_folder(plan, overwrite=True):
        return count_corpus(
            replace(config, overwrite=True), plan, config.output / train.COUNTS_FOLDER
        )


def test_the_sample_is_the_same_for_any_plan_and_of_about_the_size_asked_for(
    inputs: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size is within 5%: three standard deviations of 8,000 documents drawn of 32,000."""
    monkeypatch.setattr(drawn_documents, "_HEAD_BYTES", 1 << 19)  # half of each of the large files
    results = []
    for workers, unit_bytes in ((0, 1 << 26), (1, 300_000), (0, 100_000)):
        monkeypatch.setattr(train, "UNIT_BYTES", unit_bytes)
        config = TrainConfig(
            inputs=inputs, output=tmp_path / "out", workers=workers, sample=500_000, held_out=0.1
        )
        results.append(count(config))
    first, *others = results
    for other in others:
        assert list(other.words) == list(first.words)
        assert other.held_out == first.held_out
        assert other.accounts.as_dict() == first.accounts.as_dict()
    accounts = first.accounts.as_dict()
    assert abs(accounts["figures"]["sample_bytes"] / 500_000 - 1) < 0.05
    dropped = accounts["documents"]["dropped"]
    assert dropped["not in the sample"] > 20_000
    # Whether a document is held out does not depend on whether it is in the sample.
    num_held_out = dropped["held out for the report"]
    num_drawn = accounts["documents"]["kept"] + num_held_out
    assert abs(share_z(num_held_out, num_drawn, 0.1)) < 4
    units = [part for unit in train.plan_training(config).units for part in unit.payload]
    assert find_held_out(config, units) == first.held_out


def test_a_sample_of_more_than_there_is_counts_everything(
    inputs: tuple[str, ...], tmp_path: Path
) -> None:
    config = TrainConfig(inputs=inputs, output=tmp_path / "out", workers=0, held_out=0)
    everything = count(config)
    sampled = count(replace(config, sample=10_000_000))
    assert list(sampled.words) == list(everything.words)
    assert sampled.accounts.as_dict() == everything.accounts.as_dict()


def test_the_record_says_what_was_sampled(inputs: tuple[str, ...], tmp_path: Path) -> None:
    record = run(Path(inputs[0]), tmp_path / "out", vocab_size=300, sample=200_000)
    assert record.options["sample"] == 200_000
    assert abs(record.accounts["figures"]["sample_bytes"] / 200_000 - 1) < 0.1
    assert record.accounts["documents"]["dropped"]["not in the sample"] > 10_000


def test_counts_of_another_corpus_are_no_part_of_a_sample(
    inputs: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share that is drawn depends on all inputs, so another input changes every unit."""
    monkeypatch.setattr(train, "UNIT_BYTES", 1 << 20)
    config = TrainConfig(inputs=inputs[:1], output=tmp_path / "out", sample=200_000)
    keys = train.plan_training(config).work_keys()
    assert not keys & train.plan_training(replace(config, inputs=inputs)).work_keys()
    all_text = replace(config, sample=None)
    more = train.plan_training(replace(all_text, inputs=inputs)).work_keys()
    assert train.plan_training(all_text).work_keys() <= more


def test_what_cannot_be_sampled_is_refused_in_a_line(
    inputs: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="size of standard input"):
        TrainConfig(inputs=("-",), output=tmp_path / "out", sample=1000)
    with pytest.raises(UsageError, match="--sample has no effect with --format counts"):
        TrainConfig(inputs=("words.tsv",), output=tmp_path / "out", sample=1000, format="counts")
    with pytest.raises(TokkitError, match="no document is left to learn from; see --sample"):
        run(Path(inputs[0]), tmp_path / "out", sample=1)


def test_a_large_corpus_is_counted_in_a_bounded_number_of_runs(
    inputs: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "UNIT_BYTES", 1000)
    monkeypatch.setattr(train, "MAX_UNITS", 40)
    units = train.plan_training(TrainConfig(inputs=inputs, output=tmp_path / "out")).units
    assert 40 <= len(units) <= 60
