"""Matching of the tensors in a file to the tensors of a timm encoder.

Files name tensors as timm's plain model does, or with a prefix.
timm's wrapper that gives features (`features_only`) renames the tensors of a model.
It names them `model.NAME` or `body.NAME`, or replaces `stages.0.` by `stages_0.`.
"""

from __future__ import annotations

from mddbench.errors import InputError
from mddbench.nn.tensor_files import State, described


def match_tensors(wanted: State, state: State, subject: str) -> State:
    """Match the tensors of a file to those of an encoder.

    Args:
        wanted: The encoder's own tensors, which give names, shapes and types.
        state: The file's tensors, named as the encoder's or as timm's plain model's.
            One prefix, such as `module.backbone.`, may stand before all names.
            Counters that inference does not read may be missing.
        subject: Beginning of messages, such as "the weights".

    Returns:
        A tensor of the file for each name of `wanted`, in the type of the encoder.

    Raises:
        InputError: If the file holds the weights of another model, or several copies of the model.
            The message says what the file holds.
    """
    needed = [name for name in wanted if not name.endswith("num_batches_tracked")]
    prefixes = _prefixes(needed, state)
    matches = {prefix: _match(wanted, state, prefix) for prefix in prefixes}
    complete = [prefix for prefix in prefixes if all(name in matches[prefix] for name in needed)]
    different = list({tuple(matches[prefix].values()): prefix for prefix in reversed(complete)}.values())[::-1]
    if len(different) > 1 and different[0]:
        raise InputError(
            f"{subject} hold the model {len(different)} times, under {' and '.join(map(repr, different))}; "
            f"keep one of them"
        )
    best = complete[0] if complete else max(prefixes, key=lambda prefix: len(matches[prefix]))
    match = matches[best]
    missing = [name for name in needed if name not in match]
    unfit = [name for name in match if state[match[name]].shape != wanted[name].shape]
    if missing or unfit:
        fault = f"lack '{best}{_plain_name(missing[0])}'" if missing else f"hold '{match[unfit[0]]}' in another shape"
        raise InputError(f"{subject} {fault}; they are another model's ({described(state)})")
    return {name: state[match[name]].to(value) if name in match else value for name, value in wanted.items()}


def _prefixes(needed: list[str], state: State) -> list[str]:
    """Return the possible prefixes of all names of a file, the shortest first; '' is always one of them."""
    anchors = {name for wanted in (needed[0], needed[-1]) for name in _possible_names(wanted)} if needed else set()
    prefixes = {
        name.removesuffix(anchor)
        for name in state
        for anchor in anchors
        if name == anchor or name.endswith(f".{anchor}")
    }
    return sorted({"", *prefixes}, key=lambda prefix: (len(prefix), prefix))


def _match(wanted: State, state: State, prefix: str) -> dict[str, str]:
    """Return wanted name -> name in the file, for the names that the file has with the prefix."""
    pairs = (
        (name, next((candidate for candidate in _possible_names(name) if prefix + candidate in state), None))
        for name in wanted
    )
    return {name: prefix + candidate for name, candidate in pairs if candidate is not None}


def _possible_names(name: str) -> list[str]:
    """Return the names that a tensor of timm's wrapper may have in a file; its own name is the last."""
    first, _, rest = name.partition(".")
    unfolded = [f"{first[:at]}.{first[at + 1 :]}.{rest}" for at, letter in enumerate(first) if letter == "_"]
    return [*([rest] if first in ("model", "body") else []), *unfolded, name]


def _plain_name(name: str) -> str:
    """Return the most likely name in timm's plain model."""
    first, _, rest = name.partition(".")
    return rest if first in ("model", "body") else name
