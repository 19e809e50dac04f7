"""Small files of a bucket are found and read with a request each."""

from collections import Counter
from pathlib import Path

import pytest
import storeservers
from memorystore import run_store
from pyarrow.fs import S3FileSystem

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.file_systems import open_files
from tokkit.corpus.readers import read_ahead, read_documents
from tokkit.corpus.units import plan_units
from tokkit.engine import object_store

TEXT = "A cat sat.\n\nA dog ran.\n\n" * 300


def test_a_folder_is_listed_at_once_and_a_file_is_read_once(
    s3: S3FileSystem, s3_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(40):
        with s3.open_output_stream(f"corpora/in/{number % 4}/below/{number}.txt") as file:
            file.write(TEXT.encode())
    asked: list[str] = []
    with storeservers.fail_before(s3_address, [], asked) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        object_store.open_client.cache_clear()
        config = CorpusConfig(inputs=("s3://corpora/in",))
        units = plan_units(config)
        assert len(units) == 40
        listings = sum("list-type" in request for request in asked)
        methods = Counter(request.split()[0] for request in asked)
        assert methods == {"HEAD": 1, "GET": 40 + listings}  # the folder is asked for, too
        assert listings == 2
        asked.clear()
        for unit in read_ahead(units):
            assert sum(len(batch.texts) for batch in read_documents(unit, config)) == 600
    assert Counter(request.split()[0] for request in asked) == {"GET": 40}


@pytest.mark.usefixtures("s3")
def test_a_store_that_lists_milliseconds_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MinIO and Ceph do, and tell whole seconds of a single object."""
    (tmp_path / "in").mkdir()
    with run_store() as (memory, address):
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        for name, text in {"large.txt": TEXT * 50, "small.txt": TEXT}.items():
            memory.put(f"corpora/in/{name}", text.encode())
            (tmp_path / "in" / name).write_text(text)
        open_files.cache_clear()
        object_store.open_client.cache_clear()
        config = CorpusConfig(inputs=("s3://corpora/in",))
        here = CorpusConfig(inputs=(str(tmp_path / "in"),))
        texts = [
            [batch.texts.to_pylist() for unit in units for batch in read_documents(unit, each)]
            for each, units in ((config, read_ahead(plan_units(config))), (here, plan_units(here)))
        ]
    open_files.cache_clear()
    object_store.open_client.cache_clear()
    assert texts[0] == texts[1]
