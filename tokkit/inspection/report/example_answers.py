"""What the checkpoints of a run answer to examples: sentences with masks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokkit.errors import TokkitError
from tokkit.inspection.report.markup import Column, Content, Markup, card, cards, element, table
from tokkit.pretraining.training.run_record import CHECKPOINTS, EXPORT, checkpoint_path
from tokkit.tokenizer.special_tokens import encode_masked
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

ANSWERS_SHOWN = 5


def answer_examples(
    path: Path, facts: Mapping[str, Any], examples: Sequence[str]
) -> list[dict[str, Any]]:
    """Let each kept checkpoint fill in the masks of examples.

    Args:
        path: run folder.
        facts: of the run.
        examples: sentences with masks.

    Returns:
        For each example and mask a row with ``example``, ``mask`` and ``checkpoints``: the step of
        each with its most likely tokens and their probabilities.

    Raises:
        TokkitError: if the model fills no masks, or its tokenizer is not there.
    """
    from tokkit.pretraining.models.architectures import read_shape
    from tokkit.pretraining.models.export import predict_masked
    from tokkit.pretraining.training.checkpoints import read_model

    config = read_shape(facts["run"]["model"], path)
    if not config.task.has_masks:
        raise TokkitError(f"{path}: its model predicts the next token, and fills no masks")
    tokenizer = _find_tokenizer(path, facts["run"])
    rows: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for checkpoint in facts["checkpoints"]:
        model = read_model(checkpoint_path(path / CHECKPOINTS, checkpoint["step"]), config)
        for example in examples:
            ids = encode_masked(tokenizer, example)[: config.max_position_embeddings]
            for mask, answers in enumerate(predict_masked(model, tokenizer, ids, ANSWERS_SHOWN)):
                found = [{"token": token, "probability": share} for token, share in answers]
                entry = {"step": checkpoint["step"], "answers": found}
                rows.setdefault((example, mask), []).append(entry)
    return [
        {"example": example, "mask": mask, "checkpoints": found}
        for (example, mask), found in rows.items()
    ]


def _find_tokenizer(path: Path, run: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer of a run: that of its export, or of its instances.

    Raises:
        TokkitError: if there is none, or it is another one.
    """
    places = [path / EXPORT, *(Path(name) / "tokenizer" for name in run["options"]["instances"])]
    for place in places:
        if (place / "tokenizer.json").is_file():
            tokenizer = load_tokenizer(place)
            if tokenizer.fingerprint == run["tokenizer_fingerprint"] or place == path / EXPORT:
                return tokenizer
    raise TokkitError(f"{path}: its tokenizer is missing, so the examples cannot be run")


def draw_answers(run: Mapping[str, Any]) -> Content:
    """Return a table for each mask, with a row for each checkpoint."""
    drawn = []
    for row in run["answers"]:
        rows = [
            {
                "step": entry["step"],
                "answers": [_draw_answer(**answer) for answer in entry["answers"]],
            }
            for entry in row["checkpoints"]
        ]
        columns = (Column("step", "checkpoint", ","), Column("answers", "most likely"))
        mask = f", mask {row['mask'] + 1}" if row["mask"] else ""
        drawn.append(card(f"{row['example']}{mask}", table(columns, rows)))
    return [element("h3", f"What the model answers: {run['path']}"), cards(*drawn)]


def _draw_answer(token: str, probability: float) -> Markup:
    share = element("small", f"{probability:.{0 if probability >= 0.1 else 1}%}")
    return element("span", token, " ", share, class_="answer", dir="auto")
