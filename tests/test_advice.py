"""Every message that names a remedy has a test that follows the remedy, or is listed as one that has none.

Tests in files called ``test_…_remedies.py`` fail, do what the error says, and succeed. Such a test
follows the messages of which it has a part, in which ``{}`` or ``.*`` stands for what is filled in.
A new message needs such a test; the list of those without one must only become shorter.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from test_messages import PACKAGE, messages_of

TESTS = Path(__file__).parent
# An imperative after a pause.
REMEDY = re.compile(
    r"(?:^|[;:,.] |\b(?:or|and) )(?:add|ask|break|build|call|check|choose|clean|close|convert|copy"
    r"|correct|decode|decompress|divide|download|encode|export|extract|free|give|install|leave|lower"
    r"|make|name|omit|pass|pipe|plan|put|raise|recreate|remove|rename|replace|restore|run|save"
    r"|set|shorten|split|start|take|train|try|unpack|unset|use|wait|write)\b"
)
FILLED_IN = re.compile(r"\{\}|\.\*|\\d\+|%[sd]")
FEWEST = 15  # characters that say which message is meant
# Tests elsewhere that follow a remedy, and parts of the messages.
ELSEWHERE = {
    "cli/test_environment.py::test_little_address_space_is_one_line": (
        "of address space are not enough to load the libraries",
    ),
    "engine/test_stage.py::test_a_signal_ends_a_run_with_its_exit_status": (
        "stopped by {}; run the same command again to continue",
    ),
    "engine/test_stage.py::test_a_worker_that_is_killed_is_an_error_that_names_its_unit": (
        "Finished units are kept: run the same command again to continue",
    ),
    "pretraining/test_device_limits.py::test_short_memory_of_a_gpu_is_one_line": (
        "the model alone; choose a smaller one",
        "tokens at once; pass a smaller --micro-batch-tokens",
    ),
    "pretraining/test_processes.py::test_two_processes_are_stopped_and_one_resumes": (
        "stopped by {} after step {}{}; run the same command again to resume",
        "run the same command again to continue from the last checkpoint",
    ),
    "engine/test_ray.py::test_units_of_a_node_that_is_lost_are_done_by_others": (
        "its process or node was lost",
    ),
    "engine/test_mirrors.py::test_credentials_that_expire_end_the_work_and_lose_nothing": (
        "the store refuses or does not answer",
    ),
    "pretraining/test_hub_upload.py::test_a_hub_that_refuses_costs_no_training": (
        "the run is finished; run the same command again to upload it",
    ),
    "tokenizer/test_folders_of_transformers.py::test_without_transformers_the_line_names_the_extra_and_the_file": (
        "or name its tokenizer.json, which is then taken as it is",
    ),
    "encoding/test_warnings.py::test_one_huge_document_of_many_lines": (
        "became one document each; pass --documents line",
    ),
    "encoding/test_warnings.py::test_files_cut_at_their_paragraphs": (
        "pass --documents file if a file is a document",
    ),
    "encoding/test_warnings.py::test_documents_of_one_sentence": (
        "find random pairs only; if blank",
        " or pass --documents file",
    ),
    "encoding/test_warnings.py::test_texts_that_sentencepiece_gets_in_windows": (
        "reached sentencepiece in overlapping",
    ),
    "encoding/test_warnings.py::test_unknown_tokens_with_the_commonest_characters": (
        "use a vocabulary that was learned from such text",
    ),
    "encoding/test_warnings.py::test_a_vocabulary_of_other_scripts": (
        "use a vocabulary that was learned from this script",
    ),
    "encoding/test_warnings.py::test_control_characters": ("clean it before training on it",),
    "encoding/test_warnings.py::test_pairs_that_are_not_random_after_the_remedy": (
        "encode with --sentences auto or lines",
        "encode without --documents line, or",
    ),
    "encoding/test_warnings.py::test_pairs_that_are_all_random_are_reported_by_every_command": (
        "if blank lines stand between all sentences",
        " or encode with --documents file",
    ),
    "cli/test_remedies.py::test_translations_of_other_documents": (
        "encode dropped as many documents as of",
        "{}: {}, {}, and encode again",
    ),
    "corpus/test_companions.py::test_a_saved_data_set_is_read_as_its_library_reads_it": (
        "holds a DatasetDict",
    ),
    "engine/test_aws_profiles.py::test_a_profile_that_gives_no_keys_is_refused": (
        "is damaged ({}); restore the file",
        "set the variables that aws configure",
    ),
    "engine/test_aws_profiles.py::test_an_address_is_corrected": ("correct it, or unset it",),
    "tokenizer/test_hostile_tokenizers.py::test_a_pattern_that_backtracks_is_one_line_that_names_the_text": (
        "its library cannot encode",
    ),
    "tokenizer/test_folders_of_transformers.py::test_a_tiktoken_file_is_converted_with_its_special_tokens": (
        "a tiktoken file, which lacks",
    ),
    "tokenizer/test_metaspace_bpe.py::test_a_word_that_sentencepiece_would_trim_is_refused": (
        "break the text into lines",
    ),
    "pretraining/test_export.py::test_a_decoder_generates_the_most_likely_tokens": (
        "use AutoModel{} of transformers",
    ),
    "pretraining/data/test_loader.py::test_a_folder_without_training_instances_is_refused": (
        "holds no training instance",
    ),
    "test_fuzz.py::test_a_disk_that_fails_ends_a_stage_with_one_line_and_it_resumes": (
        "no space left on the device",
    ),
}
# Why nothing follows a remedy, and parts of the messages.
NOT_FOLLOWED = {
    "they are no errors: help, labels and lines of a report": (
        "start {} again to use it",
        "What to do about invalid UTF-8",
        "Number of optimizer steps; raise it",
        "name your text under [corpus]",
        "There is no text to measure on; name some",
        "run its command again",
        "record batches {} to {}, pass {}",
        "split must be one of",
        "are not supported by this function",
    ),
    "the warning is about a finished folder, and what it advises is checked where that option is tested": (
        "no instances are held out, so nothing is evaluated",
        "which is too little; lower --micro-batch-tokens",
    ),
    "another file has to come from where this one came from": (
        "is not a regular file; restore the file",
        "README.md: is not installed",
        "install the release that wrote it",
        "download it again",
        "its library did not encode",
    ),
    "it takes another machine, another user, a GPU, a cluster, a store or the network": (
        "check the name, the network",
        "ask for access on its page",
        "leave it out, and set {}",
        "check the network, and run",
        "check the folder with tokkit verify",
        "as ray status shows it",
        "install the same release on all nodes",
        "run ray start on this machine",
        "permission denied; check",
        "install a build of torch for it",
        "TRITON_INTERPRET=1; pass",
        "train with a single process",
        "start one process per GPU",
        "cannot connect to rank 0",
        "log in with: hf auth",
        "--precision fp16 is for",
    ),
    "it takes a full disk, little memory, or files that change at a moment": (
        "has changed while it was read; wait",
        "out of memory; use fewer --workers",
        "out of memory; use fewer --workers, or smaller units",
        "It may have run out of memory: use",
        "changed while it was in use",
        "the disk quota is used up",
        "raise the limit, as with ulimit",
        "too many open files; close",
        "free some space before",
        "a crash may lose lines",
        "its lines are kept in memory",
        "was damaged while it was read",
    ),
    "no command reaches it, since a check before it says the same": (
        "which only tokkit train reads",
        "omit --language-field to use",
    ),
}


def parts_of(text: str) -> list[str]:
    """Return what is fixed in a text."""
    return [part for part in FILLED_IN.split(text) if part]


def is_part(text: str, message: str) -> bool:
    """Whether the fixed parts of a text, or of a pattern, are in a message, one after another."""
    at = 0
    for part in parts_of(text):
        plain = part if part in message else re.sub(r"\\(.)", r"\1", part)
        if (found := message.find(plain, at)) < 0:
            return False
        at = found + len(plain)
    return True


@cache
def texts_of_tests() -> frozenset[str]:
    """Return the texts in tests of remedies that may be parts of messages."""
    trees = (ast.parse(path.read_text()) for path in TESTS.rglob("test_*remedies.py"))
    texts = (
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    return frozenset(
        text for text in texts if sum(map(len, parts_of(text))) >= FEWEST and " " in text.strip()
    )


def remedies_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and text of each message of a module that names a remedy."""
    for line, text in messages_of(path):
        if sum(map(len, parts_of(text))) > FEWEST and REMEDY.search(text):
            yield line, text


@pytest.fixture(scope="module")
def remedies() -> dict[str, str]:
    """All messages that name a remedy, with the place of one of each."""
    return {
        text: f"{path}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, text in remedies_of(path)
    }


def test_every_remedy_is_followed_or_listed(remedies: dict[str, str]) -> None:
    listed = {part for parts in (*ELSEWHERE.values(), *NOT_FOLLOWED.values()) for part in parts}
    known = listed | texts_of_tests()
    missing = [
        f"{place}: no test follows the remedy of: {text}"
        for text, place in remedies.items()
        if not any(is_part(part, text) for part in known)
    ]
    assert not missing, "\n".join(missing)


def test_what_is_listed_is_a_message_that_no_test_follows(remedies: dict[str, str]) -> None:
    for parts in (*ELSEWHERE.values(), *NOT_FOLLOWED.values()):
        for part in parts:
            found = [text for text in remedies if is_part(part, text)]
            assert found, f"no message has the part: {part}"
            followed = [t for t in found if any(is_part(text, t) for text in texts_of_tests())]
            assert followed != found, f"a test follows it now: {part}"


def test_the_tests_elsewhere_exist() -> None:
    for name in ELSEWHERE:
        path, _, test = name.partition("::")
        assert f"def {test}(" in (TESTS / path).read_text(), name


def test_the_list_of_remedies_that_are_not_followed_becomes_shorter() -> None:
    assert sum(map(len, NOT_FOLLOWED.values())) <= 46
